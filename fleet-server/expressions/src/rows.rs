//! Rows as the interpreter sees them: names are looked up one by one, no map is built.

use cel::ExecutionError;
use cel::common::traits::{Container, Indexer};
use cel::common::types::{CelBool, CelDouble, CelString, Type};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;

use super::{Field, Row};

/// Hands the row's top-level names to the interpreter.
pub(super) struct Resolver<'a>(pub(super) &'a dyn Row);

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
