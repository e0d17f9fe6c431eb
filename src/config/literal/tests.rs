use proptest::prelude::*;

use super::super::value::str_repr;
use super::*;

fn int(value: i64) -> Value {
    Value::Int(value)
}

fn text(value: &str) -> Value {
    Value::Str(value.into())
}

/// What CPython's `ast.literal_eval` gives.
#[test]
fn literals_of_python() {
    use Value::{Bool, Bytes, Complex, Dict, Ellipsis, Float, List, None, Set, Tuple};
    let cases: Vec<(&str, Value)> = vec![
        ("1", int(1)),
        (" \t5", int(5)),
        ("5 # five\n\n  # more\n", int(5)),
        ("\n5", int(5)),
        ("1_000", int(1000)),
        ("0x_1F", int(31)),
        ("0o17", int(15)),
        ("0b101", int(5)),
        ("00", int(0)),
        ("-9223372036854775808", int(i64::MIN)),
        ("-(1)", int(-1)),
        ("1.", Float(1.0)),
        (".5", Float(0.5)),
        ("0100.5", Float(100.5)),
        ("1e400", Float(f64::INFINITY)),
        ("1E-3", Float(0.001)),
        ("2j", Complex(0.0, 2.0)),
        ("-1+2j", Complex(-1.0, 2.0)),
        ("1.5 - 2J", Complex(1.5, -2.0)),
        ("True", Bool(true)),
        ("None", None),
        ("...", Ellipsis),
        ("()", Tuple(vec![])),
        ("(1)", int(1)),
        ("(1,)", Tuple(vec![int(1)])),
        ("1,", Tuple(vec![int(1)])),
        ("1, 2", Tuple(vec![int(1), int(2)])),
        ("'a','b',", Tuple(vec![text("a"), text("b")])),
        ("[\n1, # one\n2\n]", List(vec![int(1), int(2)])),
        ("[(1, 2), [-3]]", List(vec![Tuple(vec![int(1), int(2)]), List(vec![int(-3)])])),
        ("{1, 1, 2}", Set(vec![int(1), int(2)])),
        ("set()", Set(vec![])),
        ("{}", Dict(vec![])),
        ("{'a': 1, 'a': 2,}", Dict(vec![(text("a"), int(2))])),
        ("'a' \"b\"", text("ab")),
        ("('a'\n'b')", text("ab")),
        ("'''a\n'b'''", text("a\n'b")),
        (r"r'\d'", text(r"\d")),
        (r"'\x41\101\u00e9\t\q\''", text("AAé\t\\q'")),
        ("u'x'", text("x")),
        (r"b'\xff\400'", Bytes(vec![255, 0])),
        ("'a\\\nb'", text("ab")),
        ("'é'", text("é")),
    ];
    for (written, value) in cases {
        assert_eq!(parse(written), Ok(value), "{written:?}");
    }
}

#[test]
fn not_literals() {
    for written in [
        "",
        " ",
        "#",
        "abc",
        "true",
        "0100",
        "1_",
        "1__0",
        "0x",
        "1a",
        "1 2",
        "1+2",
        "--1",
        "1+-2j",
        "1+2j+3j",
        "-True",
        "-'a'",
        "(",
        "(1, 2",
        "(1, 2]",
        "(,)",
        "[1,,2]",
        "{1: 2, 3}",
        "{**{}}",
        "'a",
        "'a\nb'",
        "f'x'",
        "b'a' 'b'",
        "b'é'",
        r"'\x4'",
        r"'\ud800'",
        "a/b",
        "/a",
        "[x]",
        "print()",
        "1 if True else 2",
        "\n  5",
        "5\n6",
        "1.e",
        "1e",
        "lambda: 0",
        "set(1)",
        ".",
        "..",
        "catalog://ImageNetPretrained/MSRA/R-50",
        "cuda:0",
        "'\0'",
        "_'x'",
        "5\n ",
    ] {
        assert!(matches!(parse(written), Err(LiteralError::NotALiteral { .. })), "{written:?}: {:?}", parse(written));
    }
    let deep = "[".repeat(100_000);
    assert!(matches!(parse(&deep), Err(LiteralError::NotALiteral { .. })));
}

#[test]
fn errors_that_yacs_does_not_catch() {
    assert_eq!(parse("{[]: 1}"), Err(LiteralError::Unhashable("list")));
    assert_eq!(parse("{(1, {})}"), Err(LiteralError::Unhashable("tuple")));
    assert!(matches!(parse("{[]: 1} x"), Err(LiteralError::NotALiteral { .. })), "syntax errors come first");
    assert!(matches!(parse("9223372036854775808"), Err(LiteralError::OutOfRange(_))));
    assert!(matches!(parse("[-9223372036854775809]"), Err(LiteralError::OutOfRange(_))));
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<f64>().prop_filter("literals are finite", |v| v.is_finite()).prop_map(Value::Float),
        any::<String>().prop_map(|s| Value::Str(s.replace('\0', ""))),
        "[a-z0-9' \"\\\\]{0,8}".prop_map(Value::Str),
    ]
}

fn any_value() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::List),
            proptest::collection::vec(inner, 0..5).prop_map(Value::Tuple),
        ]
    })
}

/// The oracle's value in our form; it keeps integers of any size and gives no other types here.
fn from_oracle(value: &py_literal::Value) -> Value {
    use py_literal::Value as Py;
    match value {
        Py::None => Value::None,
        Py::Boolean(value) => Value::Bool(*value),
        Py::Integer(value) => Value::Int(value.to_string().parse().expect("a 64-bit integer")),
        Py::Float(value) => Value::Float(*value),
        Py::String(value) => Value::Str(value.clone()),
        Py::List(items) => Value::List(items.iter().map(from_oracle).collect()),
        Py::Tuple(items) => Value::Tuple(items.iter().map(from_oracle).collect()),
        other => panic!("unexpected {other:?}"),
    }
}

proptest! {
    #[test]
    fn printed_values_are_read_back(value in any_value()) {
        prop_assert_eq!(parse(&value.to_string()), Ok(value));
    }

    #[test]
    fn agrees_with_py_literal(value in any_value()) {
        let written = value.to_string();
        let oracle: py_literal::Value = written.parse().expect("py_literal reads what repr prints");
        prop_assert_eq!(parse(&written), Ok(from_oracle(&oracle)));
    }

    #[test]
    fn never_panics(written in "[-+0-9a-f_.jx'\"\\\\(){}\\[\\],: \n#]{0,24}") {
        let _ = parse(&written);
    }

    #[test]
    fn a_quoted_string_is_that_string(value in "[^\0]*") {
        prop_assert_eq!(parse(&str_repr(&value)), Ok(Value::Str(value)));
    }
}
