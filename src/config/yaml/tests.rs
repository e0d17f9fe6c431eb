use proptest::prelude::*;

use super::*;
use Value::{Bool, Bytes, Dict, Float, Int, List, None, Set, Timestamp, Tuple};

fn text(value: &str) -> Value {
    Value::Str(value.into())
}

fn pair(key: &str, value: Value) -> (Value, Value) {
    (text(key), value)
}

/// What PyYAML's `safe_load` gives.
#[test]
fn scalars_of_yaml_1_1() {
    let cases: Vec<(&str, Value)> = vec![
        ("", None),
        ("# only a comment", None),
        ("~", None),
        ("Null", None),
        ("nULL", text("nULL")),
        ("YES", Bool(true)),
        ("off", Bool(false)),
        ("y", text("y")),
        ("'on'", text("on")),
        ("12", Int(12)),
        ("+1_2", Int(12)),
        ("0100", Int(64)),
        ("0o100", text("0o100")),
        ("089", text("089")),
        ("-0x1F", Int(-31)),
        ("0b101", Int(5)),
        ("1:30", Int(90)),
        ("-1:30:05", Int(-5405)),
        ("1:99", text("1:99")),
        ("01:30", text("01:30")),
        ("1.", Float(1.0)),
        (".5", Float(0.5)),
        ("-.5", text("-.5")),
        ("1e3", text("1e3")),
        ("1.0e3", text("1.0e3")),
        ("1.0e+3", Float(1000.0)),
        ("1_0.5", Float(10.5)),
        ("1:30.5", Float(90.5)),
        ("-.INF", Float(f64::NEG_INFINITY)),
        ("2019-01-02", Timestamp("2019-01-02".into())),
        ("2019-1-2", text("2019-1-2")),
        ("2001-12-14t21:59:43.10-05:00", Timestamp("2001-12-14t21:59:43.10-05:00".into())),
        ("!!str 12", text("12")),
        ("!!int '12'", Int(12)),
        ("!!float 1", Float(1.0)),
        ("! '12'", Int(12)),
        ("!!bool 'Yes'", Bool(true)),
        ("!!binary aGk=", Bytes(b"hi".to_vec())),
        ("!!null x", None),
        ("(1, 2)", text("(1, 2)")),
        ("a: b: c".strip_prefix("a: ").unwrap_or(""), Dict(vec![pair("b", text("c"))])),
    ];
    for (written, value) in cases {
        assert_eq!(load(written).map_err(|e| e.to_string()), Ok(value), "{written:?}");
    }
    assert!(matches!(load(".NaN"), Ok(Float(value)) if value.is_nan()));
}

#[test]
fn collections() {
    let merged = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {y: 4, <<: [{z: 5}, {z: 6, x: 7}]}";
    let a = Dict(vec![pair("x", Int(1)), pair("y", Int(2))]);
    let b = Dict(vec![pair("x", Int(1)), pair("y", Int(3))]);
    let c = Dict(vec![pair("z", Int(5)), pair("x", Int(7)), pair("y", Int(4))]);
    assert_eq!(load(merged).expect("valid"), Dict(vec![pair("a", a), pair("b", b), pair("c", c)]));
    assert_eq!(load("{a: 1, a: 2}").expect("the last one wins"), Dict(vec![pair("a", Int(2))]));
    assert_eq!(load("!!set {a, b}").expect("valid"), Set(vec![text("a"), text("b")]));
    let pairs = List(vec![Tuple(vec![text("a"), Int(1)]), Tuple(vec![text("a"), Int(2)])]);
    assert_eq!(load("!!pairs [a: 1, a: 2]").expect("valid"), pairs);
    assert_eq!(load("a: |\n  x\n  y\n").expect("valid"), Dict(vec![pair("a", text("x\ny\n"))]));
    assert_eq!(load("a: |\n  x\n  y").expect("valid"), Dict(vec![pair("a", text("x\ny"))]));
    assert_eq!(load("a: >-\n  x\n  y\n").expect("valid"), Dict(vec![pair("a", text("x y"))]));
}

#[test]
fn errors() {
    use ErrorKind::{Other, YamlSyntax};
    for (written, kind) in [
        ("[1, 2", YamlSyntax),
        ("a:\n\tb: 1", YamlSyntax),
        ("a: *b", YamlSyntax),
        ("&a [*a]", YamlSyntax),
        ("--- 1\n--- 2", YamlSyntax),
        ("!!python/tuple [1]", YamlSyntax),
        ("!mine 1", YamlSyntax),
        ("a: <<", YamlSyntax),
        ("a: =", YamlSyntax),
        ("{[a]: 1}", YamlSyntax),
        ("a: \u{1}", YamlSyntax),
        ("!!int x", Other),
        ("0b_", Other),
        ("99999999999999999999", Other),
    ] {
        assert_eq!(load(written).map_err(|e| e.kind()), Err(kind), "{written:?}");
    }
    assert!(load("a: [1,\n b: 2").expect_err("not closed").to_string().contains("line "));
}

#[test]
fn hostile_documents_end() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        bomb += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(", "));
    }
    assert_eq!(load(&bomb).map_err(|e| e.kind()), Err(ErrorKind::YamlSyntax));
    let mut merges = String::from("a0: &a0 {}\n");
    for i in 1..12 {
        merges += &format!("a{i}: &a{i} {{<<: [{}]}}\n", vec![format!("*a{}", i - 1); 10].join(", "));
    }
    assert_eq!(load(&merges).map_err(|e| e.kind()), Err(ErrorKind::YamlSyntax));
    assert!(load(&"[".repeat(5000)).is_err());
    assert!(load(&"- ".repeat(5000)).is_err());
}

/// What PyYAML's `safe_dump` gives.
#[test]
fn dumped_as_pyyaml_does() {
    let value = Dict(vec![
        pair("A", Dict(vec![pair("B", Float(1e-5)), pair("C", Dict(vec![]))])),
        pair("L", List(vec![Int(1), List(vec![List(vec![]), List(vec![text("x"), Tuple(vec![Float(0.5)])])]), None])),
        pair("D", List(vec![Dict(vec![pair("a", Int(1)), pair("b", List(vec![Int(2)]))])])),
        pair("S", text("yes")),
        pair("E", text("")),
        pair("Q", text("it's: so")),
        pair("N", text("a\nb\u{e9}")),
        pair("P", text("catalog://x/y-1")),
        pair("T", Bool(true)),
    ]);
    let expected = "
A:
  B: 1.0e-05
  C: {}
L:
- 1
- - []
  - - x
    - - 0.5
- null
D:
- a: 1
  b:
  - 2
S: 'yes'
E: ''
Q: 'it''s: so'
N: \"a\\nb\\xE9\"
P: catalog://x/y-1
T: true";
    let mut out = String::new();
    dump(&mut out, &value, 0, false);
    assert_eq!(out, expected);
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(None),
        any::<bool>().prop_map(Bool),
        any::<i64>().prop_map(Int),
        any::<f64>().prop_filter("nan is not equal to itself", |v| !v.is_nan()).prop_map(Float),
        "[ -~]{0,12}".prop_map(Value::Str),
        any::<String>().prop_map(Value::Str),
        "[-+0-9:._e]{1,6}".prop_map(Value::Str),
    ]
}

fn tree() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(List),
            proptest::collection::btree_map("[A-Za-z_~=<]{1,4}", inner, 0..4)
                .prop_map(|map| Dict(map.into_iter().map(|(k, v)| (Value::Str(k), v)).collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_dumped_is_read_back(value in tree()) {
        let mut out = String::new();
        dump(&mut out, &value, 0, false);
        prop_assert_eq!(load(&out).map_err(|e| e.to_string()), Ok(value), "{}", out);
    }

    #[test]
    fn never_panics(written in "[-:,\\[\\]{}&*!|>'\"%@a0 \n#<=~]{0,32}") {
        let _ = load(&written);
    }
}
