//! Scalars of COCO annotation files. Python takes any JSON value, so files differ in how they spell them: ids as
//! strings, numbers through pandas as floats, digits as the names of classes.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// An integer: also as a float without fraction (`1.0`) or a string of digits (`"0001"`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Integer(pub(crate) i64);

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl Visitor<'_> for Any {
            type Value = Integer;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an integer")
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Integer, E> {
                Ok(Integer(value))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Integer, E> {
                i64::try_from(value).map(Integer).map_err(|_| E::custom(format!("the integer {value} is too large")))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Integer, E> {
                // Beyond this, a float no longer tells neighbouring integers apart.
                const EXACT: f64 = 9_007_199_254_740_992.0;
                if value.fract() == 0.0 && value.abs() <= EXACT {
                    Ok(Integer(value as i64))
                } else {
                    Err(E::custom(format!("expected an integer, found {value}")))
                }
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<Integer, E> {
                let number = value.trim().parse();
                number.map(Integer).map_err(|_| E::custom(format!("expected an integer, found the string {value:?}")))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

/// See [`Integer`].
pub(crate) fn integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    Integer::deserialize(deserializer).map(|Integer(value)| value)
}

/// A string, or a number as it is written.
pub(crate) fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    struct Any;

    impl Visitor<'_> for Any {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("a name")
        }

        fn visit_str<E: Error>(self, value: &str) -> Result<String, E> {
            Ok(value.to_owned())
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<String, E> {
            Ok(value.to_string())
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<String, E> {
            Ok(value.to_string())
        }

        fn visit_f64<E: Error>(self, value: f64) -> Result<String, E> {
            Ok(format!("{value:?}"))
        }
    }

    deserializer.deserialize_any(Any)
}

/// `iscrowd`: a bool, or a number that is zero or not.
pub(crate) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    struct Any;

    impl Visitor<'_> for Any {
        type Value = bool;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("0 or 1")
        }

        fn visit_bool<E: Error>(self, value: bool) -> Result<bool, E> {
            Ok(value)
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<bool, E> {
            Ok(value != 0)
        }

        fn visit_f64<E: Error>(self, value: f64) -> Result<bool, E> {
            Ok(value != 0.0)
        }
    }

    deserializer.deserialize_any(Any)
}

/// Drops the last coordinate of an odd number, which has no partner: pycocotools does not read it.
pub(crate) fn drop_unpaired<T>(polygon: &mut Vec<T>) {
    polygon.truncate(polygon.len() / 2 * 2);
}

#[cfg(test)]
mod tests {
    use serde_json::{json, Value};

    use super::*;

    #[test]
    fn integers_are_spelled_in_several_ways() {
        let read = |value: Value| serde_json::from_value::<Integer>(value);
        for (value, expected) in [
            (json!(7), 7),
            (json!(-7), -7),
            (json!(7.0), 7),
            (json!("0007"), 7),
            (json!(" 7 "), 7),
            (json!(i64::MAX), i64::MAX),
        ] {
            assert_eq!(read(value.clone()).unwrap(), Integer(expected), "{value}");
        }
        for value in [json!(7.5), json!("a7"), json!(""), json!(null), json!([7]), json!(1e300), json!(u64::MAX)] {
            assert!(read(value.clone()).unwrap_err().to_string().contains("integer"), "{value}");
        }
    }

    #[test]
    fn numbers_can_be_names_and_flags() {
        for (value, expected) in [(json!("cat"), "cat"), (json!(0), "0"), (json!(-1), "-1"), (json!(2.5), "2.5")] {
            assert_eq!(name(value).unwrap(), expected);
        }
        assert!(name(json!(null)).is_err());
        for (value, expected) in [(json!(0), false), (json!(1), true), (json!(true), true), (json!(1.0), true)] {
            assert_eq!(flag(value).unwrap(), expected);
        }
        assert!(flag(json!("no")).is_err());
    }
}
