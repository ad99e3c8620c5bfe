//! CEL, the one expression language: labeling functions, device groups, gates. Compiles what a person wrote, refuses what
//! could be slow or could never work, and evaluates it against a row without building a map per row.
//!
//! The `cel` crate has no type check, no cost limit and no time-out, and long or deep sources overflow its parser's stack.
//! So the source is capped before it is parsed, loops and regular expressions are refused, every name is checked against a
//! [`Shape`], and the expression is tried once on a row of zeros. What is left costs at most its own few hundred nodes.
//!
//! It does not translate CEL to SQL and knows nothing of where rows come from.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use cel::common::ast::{Expr, IdedExpr, LiteralValue, operators};
use cel::common::traits::{Container, Indexer};
use cel::common::types::{CelBool, CelDouble, CelString, Type};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::{Context, Env, ExecutionError, Program, Value};

/// Longest source, characters.
pub const MAX_SOURCE_CHARS: usize = 2_000;
/// Most tokens. Every punctuation mark counts as one, also inside text.
pub const MAX_TOKENS: usize = 600;
/// Deepest nesting of brackets, `?` and signs.
pub const MAX_NESTING: usize = 24;
/// Most nodes of the syntax tree.
pub const MAX_NODES: usize = 400;

/// What may be called besides operators.
const FUNCTIONS: [&str; 10] = [
    "contains",
    "startsWith",
    "endsWith",
    "size",
    "int",
    "uint",
    "double",
    "string",
    "bool",
    "dyn",
];

const OPERATORS: [&str; 16] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::SUBSTRACT,
    operators::ADD,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
];

/// The type of a value that an expression may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    Number,
    Text,
    Bool,
    /// Exactly these names.
    Map(BTreeMap<String, Self>),
    /// Any name, each of this shape: free tags.
    Open(Box<Self>),
}

impl Shape {
    /// A map of the given names.
    pub fn map<N: Into<String>>(fields: impl IntoIterator<Item = (N, Self)>) -> Self {
        Self::Map(fields.into_iter().map(|(name, shape)| (name.into(), shape)).collect())
    }

    /// What labeling functions see: the features as `f["name"]`.
    pub fn features(names: &[String]) -> Self {
        Self::map([("f", Self::map(names.iter().map(|name| (name.clone(), Self::Number))))])
    }
}

/// A value that a row gives for a name.
#[derive(Debug, Clone, Copy)]
pub enum Field<'a> {
    Number(f64),
    Text(&'a str),
    Bool(bool),
    Map(&'a dyn Row),
}

/// What an expression is evaluated against: a map from names to values, possibly nested.
pub trait Row: fmt::Debug + Send + Sync {
    /// The value of `name`; `None` where the row has none, which `has()` sees as false.
    fn field(&self, name: &str) -> Option<Field<'_>>;
}

/// An owned row, for facts gathered from several places (a device's class, site, versions).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts(pub BTreeMap<String, Fact>);

/// One of [`Facts`].
#[derive(Debug, Clone, PartialEq)]
pub enum Fact {
    Number(f64),
    Text(String),
    Bool(bool),
    Map(Facts),
}

impl Row for Facts {
    fn field(&self, name: &str) -> Option<Field<'_>> {
        Some(match self.0.get(name)? {
            Fact::Number(v) => Field::Number(*v),
            Fact::Text(v) => Field::Text(v),
            Fact::Bool(v) => Field::Bool(*v),
            Fact::Map(v) => Field::Map(v),
        })
    }
}

/// A shape is its own row of zeros: what an expression is tried on when it is compiled.
impl Row for Shape {
    fn field(&self, name: &str) -> Option<Field<'_>> {
        let shape = match self {
            Self::Map(fields) => fields.get(name)?,
            Self::Open(inner) => inner,
            _ => return None,
        };
        Some(match shape {
            Self::Number => Field::Number(0.0),
            Self::Text => Field::Text(""),
            Self::Bool => Field::Bool(false),
            map => Field::Map(map),
        })
    }
}

/// Why an expression is refused, or could not be evaluated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExprError {
    #[error("the expression has {found} {what}, at most {cap} are allowed; split it into several")]
    TooLarge {
        what: &'static str,
        found: usize,
        cap: usize,
    },
    #[error("the expression cannot be read: {0}")]
    Syntax(String),
    #[error("'{0}' is not allowed in expressions: {1}")]
    Refused(String, &'static str),
    #[error("there is no '{name}'{}", did_you_mean(.nearest.as_deref()))]
    Unknown { name: String, nearest: Option<String> },
    #[error("'{0}' is a single value and has no fields")]
    NoFields(String),
    #[error("the key of '{0}[…]' must be written out as text, so that it can be checked")]
    ComputedKey(String),
    #[error("the expression never works: {0}")]
    NeverWorks(String),
    #[error("the expression gives {0}, a true or false is needed")]
    NotBool(String),
    #[error("the expression failed: {0}")]
    Failed(String),
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!("; did you mean '{nearest}'?"))
}

/// A compiled expression that gives true or false.
#[derive(Debug)]
pub struct Expression {
    source: String,
    program: Program,
}

/// The standard library, built once: building it per evaluation costs four fifths of the speed.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

impl Expression {
    /// Compiles `source` for rows of shape `schema` (a map). Every name and literal key must be in the schema.
    pub fn compile(source: &str, schema: &Shape) -> Result<Self, ExprError> {
        check_source(source)?;
        let program = Program::compile(source).map_err(|errors| ExprError::Syntax(errors.to_string()))?;
        let mut check = Check { schema, nodes: 0 };
        check.visit(program.expression())?;
        let expression = Self {
            source: source.to_owned(),
            program,
        };
        match expression.try_bool(schema) {
            Err(Outcome::NotBool(kind)) => return Err(ExprError::NotBool(kind)),
            Err(Outcome::Failed(error)) if is_type_error(&error) => {
                return Err(ExprError::NeverWorks(explain(&error)));
            }
            // A division by zero on a row of zeros says nothing about real rows.
            Err(Outcome::Failed(_)) | Ok(_) => {}
        }
        Ok(expression)
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    /// Evaluates against `row`.
    pub fn eval_bool(&self, row: &dyn Row) -> Result<bool, ExprError> {
        self.try_bool(row).map_err(|outcome| match outcome {
            Outcome::NotBool(kind) => ExprError::NotBool(kind),
            Outcome::Failed(error) => ExprError::Failed(error.to_string()),
        })
    }

    fn try_bool(&self, row: &dyn Row) -> Result<bool, Outcome> {
        let resolver = Resolver(row);
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        context.set_variable_resolver(&resolver);
        let value = Value::resolve_val(self.program.expression(), &context).map_err(Outcome::Failed)?;
        value
            .downcast_ref::<CelBool>()
            .map(|bool| *bool.inner())
            .ok_or_else(|| Outcome::NotBool(value.get_type().name().to_owned()))
    }
}

enum Outcome {
    NotBool(String),
    Failed(ExecutionError),
}

fn is_type_error(error: &ExecutionError) -> bool {
    matches!(
        error,
        ExecutionError::NoSuchOverload(_)
            | ExecutionError::UnexpectedType { .. }
            | ExecutionError::UnsupportedBinaryOperator(..)
            | ExecutionError::UnsupportedTargetType { .. }
            | ExecutionError::NotSupportedAsMethod { .. }
            | ExecutionError::InvalidArgumentCount { .. }
            | ExecutionError::MissingArgumentOrTarget
            | ExecutionError::UndeclaredReference(_)
    )
}

fn explain(error: &ExecutionError) -> String {
    match error {
        ExecutionError::UnsupportedBinaryOperator(..) => {
            format!("{error}; numbers here are decimal, so write 1.0 rather than 1 in sums and products")
        }
        other => other.to_string(),
    }
}

/// Caps that must hold before the recursive parser sees the source. Counts run over text literals too: too strict is safe.
fn check_source(source: &str) -> Result<(), ExprError> {
    let cap = |what, found, cap| {
        if found > cap {
            return Err(ExprError::TooLarge { what, found, cap });
        }
        Ok(())
    };
    cap("characters", source.chars().count(), MAX_SOURCE_CHARS)?;
    let (mut tokens, mut in_word, mut depth, mut deepest, mut signs) = (0usize, false, 0usize, 0usize, 0usize);
    for c in source.chars() {
        let word = c.is_alphanumeric() || matches!(c, '_' | '.');
        let continues = word && in_word;
        if !c.is_whitespace() && !continues {
            tokens += 1;
        }
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            // Conditionals nest to the right.
            '?' => signs += 1,
            _ => {}
        }
        deepest = deepest.max(depth);
        in_word = word;
    }
    cap("tokens", tokens, MAX_TOKENS)?;
    cap(
        "nested parts",
        deepest.max(signs).max(longest_sign_run(source)),
        MAX_NESTING,
    )
}

fn longest_sign_run(source: &str) -> usize {
    let (mut run, mut longest) = (0usize, 0usize);
    for c in source.chars().filter(|c| !c.is_whitespace()) {
        run = if matches!(c, '!' | '-') { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    longest
}

/// Walks the tree: counts nodes, allows functions by name, follows names through the schema.
struct Check<'a> {
    schema: &'a Shape,
    nodes: usize,
}

impl<'a> Check<'a> {
    /// The shape of what a path names; `None` for anything computed.
    fn visit(&mut self, node: &IdedExpr) -> Result<Option<&'a Shape>, ExprError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(ExprError::TooLarge {
                what: "nodes",
                found: self.nodes,
                cap: MAX_NODES,
            });
        }
        match &node.expr {
            Expr::Literal(_) => Ok(None),
            Expr::Ident(name) => lookup(self.schema, "", name).map(Some),
            Expr::Select(select) => match self.visit(&select.operand)? {
                Some(shape) => lookup(shape, &path(&select.operand), &select.field).map(Some),
                None => Ok(None),
            },
            Expr::Call(call) if call.func_name == operators::INDEX => self.index(&call.args),
            Expr::Call(call) => {
                Self::function(&call.func_name)?;
                for part in call.target.as_deref().into_iter().chain(&call.args) {
                    self.visit(part)?;
                }
                Ok(None)
            }
            Expr::List(list) => {
                for element in &list.elements {
                    self.visit(element)?;
                }
                Ok(None)
            }
            Expr::Comprehension(_) => Err(ExprError::Refused(
                "all, exists, exists_one, map, filter".to_owned(),
                "loops have no bound on their time; write the terms out, or use 'x in [..]'",
            )),
            Expr::Map(_) | Expr::Struct(_) => Err(ExprError::Refused(
                "{…}".to_owned(),
                "expressions compare values, they do not build maps",
            )),
            Expr::Unspecified => Err(ExprError::Syntax("a part of it is empty".to_owned())),
        }
    }

    fn index(&mut self, args: &[IdedExpr]) -> Result<Option<&'a Shape>, ExprError> {
        let [operand, key] = args else {
            return Err(ExprError::Syntax("an index needs one key".to_owned()));
        };
        let shape = self.visit(operand)?;
        match (shape, &key.expr) {
            (Some(shape), Expr::Literal(LiteralValue::String(name))) => {
                self.nodes += 1;
                lookup(shape, &path(operand), name.inner()).map(Some)
            }
            (Some(Shape::Open(inner)), _) => {
                self.visit(key)?;
                Ok(Some(inner))
            }
            (Some(_), _) => Err(ExprError::ComputedKey(path(operand))),
            (None, _) => {
                self.visit(key)?;
                Ok(None)
            }
        }
    }

    fn function(name: &str) -> Result<(), ExprError> {
        if OPERATORS.contains(&name) || FUNCTIONS.contains(&name) || name == operators::IN {
            return Ok(());
        }
        if name == "matches" {
            return Err(ExprError::Refused(
                name.to_owned(),
                "a regular expression can run for seconds; use contains, startsWith or endsWith",
            ));
        }
        Err(ExprError::Unknown {
            name: name.to_owned(),
            nearest: nearest(name, FUNCTIONS),
        })
    }
}

fn lookup<'a>(shape: &'a Shape, parent: &str, name: &str) -> Result<&'a Shape, ExprError> {
    match shape {
        Shape::Open(inner) => Ok(inner),
        Shape::Map(fields) => fields.get(name).ok_or_else(|| ExprError::Unknown {
            name: join(parent, name),
            nearest: nearest(name, fields.keys().map(String::as_str)).map(|nearest| join(parent, &nearest)),
        }),
        _ => Err(ExprError::NoFields(parent.to_owned())),
    }
}

/// `f["accel_x.std"]`, `device.site`: as it would be written.
fn join(parent: &str, name: &str) -> String {
    let plain = name.chars().all(|c| c.is_alphanumeric() || c == '_');
    match (parent.is_empty(), plain) {
        (true, _) => name.to_owned(),
        (false, true) if parent != "f" => format!("{parent}.{name}"),
        (false, _) => format!("{parent}[\"{name}\"]"),
    }
}

/// A path as it was written, for messages.
fn path(node: &IdedExpr) -> String {
    match &node.expr {
        Expr::Ident(name) => name.clone(),
        Expr::Select(select) => join(&path(&select.operand), &select.field),
        Expr::Call(call) => match call.args.as_slice() {
            [
                operand,
                IdedExpr {
                    expr: Expr::Literal(LiteralValue::String(key)),
                    ..
                },
            ] => join(&path(operand), key.inner()),
            _ => "…".to_owned(),
        },
        _ => "…".to_owned(),
    }
}

/// The known name closest to `name` by edit distance, if it is close at all.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let length = name.chars().count();
    let reach = (length / 3).max(2).min(length.saturating_sub(1));
    known
        .into_iter()
        .map(|candidate| (edit_distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= reach)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate.to_owned())
}

/// Levenshtein's, over characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = Vec::with_capacity(row.len());
        next.push(left);
        for (above, y) in row.iter().skip(1).zip(b.chars()) {
            left = (above + 1).min(left + 1).min(diagonal + usize::from(x != y));
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

/// Hands the row's top-level names to the interpreter.
struct Resolver<'a>(&'a dyn Row);

impl VariableResolver for Resolver<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        self.0.field(variable).map(to_value)
    }
}

fn to_value<'b>(field: Field<'_>) -> CowVal<'b, '_> {
    match field {
        Field::Number(v) => CowVal::owned(CelDouble::from(v)),
        Field::Text(v) => CowVal::owned(CelString::from(v)),
        Field::Bool(v) => CowVal::owned(CelBool::from(v)),
        Field::Map(row) => CowVal::owned(Nested(row)),
    }
}

/// A nested row as a CEL value: indexed lazily, so that naming one feature of a thousand costs one.
#[derive(Debug)]
struct Nested<'a>(&'a dyn Row);

static NESTED_TYPE: Type = Type::new_unspecified_type("fields");

impl Val for Nested<'_> {
    fn get_type(&self) -> &Type {
        &NESTED_TYPE
    }

    fn cel_type() -> &'static Type {
        &NESTED_TYPE
    }

    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(Nested(self.0))
    }
}

fn key_text(key: &dyn Val) -> Result<&str, ExecutionError> {
    key.downcast_ref::<CelString<'_>>()
        .map(CelString::inner)
        .ok_or_else(|| ExecutionError::UnexpectedType {
            got: key.get_type().name().to_owned(),
            want: "string".to_owned(),
        })
}

impl Indexer for Nested<'_> {
    fn get<'b, 'v>(&'b self, key: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let key = key_text(key)?;
        self.0
            .field(key)
            .map(to_value)
            .ok_or_else(|| ExecutionError::no_such_key(key))
    }

    fn steal<'v>(self: Box<Self>, key: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(key).map(CowVal::into_owned)
    }
}

impl Container for Nested<'_> {
    fn contains(&self, value: &dyn Val) -> Result<bool, ExecutionError> {
        Ok(self.0.field(key_text(value)?).is_some())
    }
}

#[cfg(test)]
mod tests {
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
}
