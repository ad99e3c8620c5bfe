//! CEL, the one expression language: labeling functions, device groups, gates. Compiles what a person wrote, refuses what
//! could be slow or could never work, and evaluates it against a row without building a map per row.
//!
//! The `cel` crate has no type check, no cost limit and no time-out, and long or deep sources overflow its parser's stack.
//! So the source is capped before it is parsed, loops and regular expressions are refused, every name is checked against a
//! [`Shape`], and the expression is tried once on a row of zeros. What is left costs at most its own few hundred nodes.
//!
//! It does not translate CEL to SQL and knows nothing of where rows come from.

mod check;
mod rows;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use cel::common::ast::operators;
use cel::common::types::CelBool;
use cel::{Context, Env, ExecutionError, Program, Value};

use self::check::{Check, check_source};
use self::rows::Resolver;

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
        let mut check = Check::new(schema);
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
