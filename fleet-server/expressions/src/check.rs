//! What an expression may say: caps that hold before the recursive parser sees the source, and a walk of the tree that
//! allows functions by name and follows every name through the schema.

use cel::common::ast::{Expr, IdedExpr, LiteralValue, operators};

use super::{ExprError, FUNCTIONS, MAX_NESTING, MAX_NODES, MAX_SOURCE_CHARS, MAX_TOKENS, OPERATORS, Shape, nearest};

/// Caps that must hold before the recursive parser sees the source. Counts run over text literals too: too strict is safe.
pub(super) fn check_source(source: &str) -> Result<(), ExprError> {
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
pub(super) struct Check<'a> {
    schema: &'a Shape,
    nodes: usize,
}

impl<'a> Check<'a> {
    pub(super) const fn new(schema: &'a Shape) -> Self {
        Self { schema, nodes: 0 }
    }

    /// The shape of what a path names; `None` for anything computed.
    pub(super) fn visit(&mut self, node: &IdedExpr) -> Result<Option<&'a Shape>, ExprError> {
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
