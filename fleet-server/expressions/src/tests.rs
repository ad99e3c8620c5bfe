//! Tests of expressions: what is refused and why, and what they give.

use super::*;

fn schema() -> Shape {
    let names: Vec<String> = ["accel_x.std", "accel_y.std", "gyro_z.mean"].map(String::from).to_vec();
    let Shape::Map(mut fields) = Shape::features(&names) else {
        panic!("a map")
    };
    fields.insert(
        "device".into(),
        Shape::map([
            ("site", Shape::Text),
            ("ram", Shape::Number),
            ("online", Shape::Bool),
            ("tags", Shape::Open(Box::new(Shape::Text))),
        ]),
    );
    Shape::Map(fields)
}

fn refused(source: &str) -> String {
    Expression::compile(source, &schema()).unwrap_err().to_string()
}

fn facts() -> Facts {
    let map = |entries: Vec<(&str, Fact)>| Facts(entries.into_iter().map(|(k, v)| (k.to_owned(), v)).collect());
    map(vec![
        (
            "f",
            Fact::Map(map(vec![
                ("accel_x.std", Fact::Number(2.5)),
                ("accel_y.std", Fact::Number(0.5)),
                ("gyro_z.mean", Fact::Number(-1.0)),
            ])),
        ),
        (
            "device",
            Fact::Map(map(vec![
                ("site", Fact::Text("hall-2".into())),
                ("ram", Fact::Number(512.0)),
                ("online", Fact::Bool(true)),
                ("tags", Fact::Map(map(vec![("line", Fact::Text("a".into()))]))),
            ])),
        ),
    ])
}

#[test]
fn features_and_device_facts_are_seen() {
    for (source, expected) in [
        (r#"f["accel_x.std"] > 2 && f["accel_y.std"] < 1.5"#, true),
        (r#"f["accel_x.std"] + f["accel_y.std"] == 3.0"#, true),
        (r#"f["gyro_z.mean"] * -1.0 > 2.0 || false"#, false),
        (r#"device.site == "hall-2" && device.ram >= 256"#, true),
        (r#"device.online && device.tags.line == "a""#, true),
        (r#"has(device.tags.colour) && device.tags.colour == "red""#, false),
        (r#""line" in device.tags && device.site in ["hall-1", "hall-2"]"#, true),
        (r#"device["site"].startsWith("hall") ? true : false"#, true),
    ] {
        let expression = Expression::compile(source, &schema()).unwrap_or_else(|e| panic!("{source}: {e}"));
        assert_eq!(expression.eval_bool(&facts()), Ok(expected), "{source}");
    }
}

#[test]
fn what_is_refused_says_why() {
    let sources = [
        r#"f["accel_x.sdt"] > 1.0"#,
        r#"g["accel_x.std"] > 1.0"#,
        "f.accel > 1.0",
        "device.sit == \"a\"",
        "device.site.name == \"a\"",
        r#"f["accel_" + "x.std"] > 1.0"#,
        r#"device.site.matches("a+")"#,
        "[1, 2].exists(x, x > 1)",
        "device.tags.all(t, t == \"x\")",
        "{\"a\": 1}.a == 1",
        "device.site.upper() == \"A\"",
        r#"f["accel_x.std"] + 1.0"#,
        r#"f["accel_x.std"] + 1 > 2.0"#,
        "device.site > 3",
        "1 +",
    ];
    let table: Vec<String> = sources.iter().map(|s| format!("{s}  =>  {}", refused(s))).collect();
    insta::assert_snapshot!(table.join("\n"), @r##"
    f["accel_x.sdt"] > 1.0  =>  there is no 'f["accel_x.sdt"]'; did you mean 'f["accel_x.std"]'?
    g["accel_x.std"] > 1.0  =>  there is no 'g'
    f.accel > 1.0  =>  there is no 'f["accel"]'
    device.sit == "a"  =>  there is no 'device.sit'; did you mean 'device.site'?
    device.site.name == "a"  =>  'device.site' is a single value and has no fields
    f["accel_" + "x.std"] > 1.0  =>  the key of 'f[…]' must be written out as text, so that it can be checked
    device.site.matches("a+")  =>  'matches' is not allowed in expressions: a regular expression can run for seconds; use contains, startsWith or endsWith
    [1, 2].exists(x, x > 1)  =>  'all, exists, exists_one, map, filter' is not allowed in expressions: loops have no bound on their time; write the terms out, or use 'x in [..]'
    device.tags.all(t, t == "x")  =>  'all, exists, exists_one, map, filter' is not allowed in expressions: loops have no bound on their time; write the terms out, or use 'x in [..]'
    {"a": 1}.a == 1  =>  '{…}' is not allowed in expressions: expressions compare values, they do not build maps
    device.site.upper() == "A"  =>  there is no 'upper'
    f["accel_x.std"] + 1.0  =>  the expression gives double, a true or false is needed
    f["accel_x.std"] + 1 > 2.0  =>  the expression never works: Unsupported binary operator 'add': Float(0.0), Int(1); numbers here are decimal, so write 1.0 rather than 1 in sums and products
    device.site > 3  =>  the expression never works: found no matching overload for '_>_' applied to '(string, int)'
    1 +  =>  the expression cannot be read: ERROR: <input>:1:4: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}
    | 1 +
    | ...^
    "##);
}

#[test]
fn long_and_deep_sources_never_reach_the_parser() {
    let chain = vec!["true"; 20_000].join(" && ");
    assert!(refused(&chain).contains("characters"), "{}", refused(&chain));
    let dense = "1&&".repeat(600) + "1";
    assert!(refused(&dense).contains("tokens"), "{}", refused(&dense));
    for deep in [
        "(".repeat(200) + "true" + &")".repeat(200),
        "!".repeat(500) + "true",
        "true?".repeat(100) + "true" + &":true".repeat(100),
        "[".repeat(100) + &"]".repeat(100),
    ] {
        assert!(refused(&deep).contains("nested parts"), "{deep}: {}", refused(&deep));
    }
}

#[test]
fn the_largest_that_passes_the_caps_runs_on_a_small_stack() {
    let worst = [
        vec!["true"; MAX_TOKENS / 3].join("&&"),
        vec!["1"; 199].join("+") + "==199",
        vec!["true"; 150].join(" || "),
        "(".repeat(MAX_NESTING) + "true" + &")".repeat(MAX_NESTING),
        "!".repeat(MAX_NESTING) + "true",
        "true?".repeat(MAX_NESTING) + "true" + &":false".repeat(MAX_NESTING),
    ];
    std::thread::Builder::new()
        // A quarter of what the server's threads have.
        .stack_size(1 << 20)
        .spawn(move || {
            for source in worst {
                // A refusal is fine; an overflow aborts the test.
                if let Ok(expression) = Expression::compile(&source, &schema()) {
                    assert_eq!(expression.eval_bool(&facts()), Ok(true), "{source}");
                }
            }
        })
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn a_row_that_lacks_what_the_schema_promised_is_an_error() {
    let expression = Expression::compile(r#"f["accel_x.std"] > 1.0"#, &schema()).unwrap();
    assert!(matches!(
        expression.eval_bool(&Facts::default()),
        Err(ExprError::Failed(_))
    ));
}

#[test]
fn edit_distance_is_levenshtein() {
    assert_eq!(edit_distance("kitten", "sitting"), 3);
    assert_eq!(edit_distance("", "abc"), 3);
    assert_eq!(
        nearest("accel_x.sdt", ["accel_x.std", "accel_y.std"]),
        Some("accel_x.std".into())
    );
    assert_eq!(nearest("zzz", ["accel_x.std"]), None);
}
