//! Every operation of the API that changes something is carried out by the `fleetctl` line that the API's document names for it:
//! the line is run against a listener that answers as the document says, and what it asked is compared with the document.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use serde_json::{Map, Value, json};

use super::*;

const ID: &str = "0192f0c1-2345-7abc-8def-0123456789ab";
const DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
/// What browsers alone do: a link's code becomes a session, and the session ends itself.
const IN_BROWSERS: [&str; 2] = ["post /api/v1/session", "delete /api/v1/session"];

fn document() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../openapi.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// `post /api/v1/rollouts`, and its line.
fn changes(document: &Value) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if matches!(method.as_str(), "post" | "put" | "patch" | "delete") {
                let line = operation["x-cli"].as_str();
                let line = line.unwrap_or_else(|| panic!("{method} {path} names no command"));
                all.push((format!("{method} {path}"), line.to_owned()));
            }
        }
    }
    all
}

/// A line's words, with something in the caller's places; files among them stand in `dir`.
fn words(line: &str, dir: &Path) -> Vec<String> {
    let file = |name: &str| dir.join(name).display().to_string();
    line.split(' ')
        .map(|word| {
            let word = if line.starts_with("fleetctl sign import") {
                word.replace("<file>", &file("signed.json"))
            } else {
                word.replace("<file>", &file("samples.csv"))
            };
            word.replace("<spec>", &file("dataset.json"))
                .replace("<id>", ID)
                .replace("<n>", "1")
                .replace("<sample>", DIGEST)
                .replace("<semver>", "1.0.0")
                .replace(['<', '>'], "")
        })
        .collect()
}

/// The lines that the console shows beside its buttons are understood as they stand in the document.
#[test]
fn every_change_of_the_api_has_a_command_that_is_understood() {
    let changes = changes(&document());
    assert!(changes.len() > 20, "{changes:?}");
    for (operation, line) in changes {
        let parsed = Cli::try_parse_from(words(&line, Path::new("")));
        assert!(parsed.is_ok(), "{operation}: {line}: {}", parsed.unwrap_err());
    }
}

/// What was asked: the operation, and its body where that is JSON.
type Asked = Arc<Mutex<Vec<(String, Option<Value>)>>>;

#[derive(Clone)]
struct Listener {
    document: Arc<Value>,
    asked: Asked,
}

impl Listener {
    /// The path as the document writes it.
    fn operation(&self, method: &str, path: &str) -> Option<(String, &Value)> {
        let paths = self.document["paths"].as_object().unwrap();
        let fits = |template: &str| {
            let (one, other) = (template.split('/'), path.split('/'));
            template.split('/').count() == path.split('/').count()
                && one
                    .zip(other)
                    .all(|(wanted, given)| wanted.starts_with('{') || wanted == given)
        };
        let mut found: Vec<_> = paths
            .iter()
            .filter(|(template, item)| fits(template) && item.get(method).is_some())
            .collect();
        // What names every word comes before what takes any.
        found.sort_by_key(|(template, _)| template.matches('{').count());
        let (template, item) = found.first()?;
        Some((format!("{method} {template}"), &item[method]))
    }

    fn schema<'a>(&'a self, content: &'a Value) -> &'a Value {
        self.resolved(&content["content"]["application/json"]["schema"])
    }

    fn resolved<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"]
            .as_str()
            .and_then(|reference| reference.rsplit('/').next())
        {
            Some(name) => &self.document["components"]["schemas"][name],
            None => schema,
        }
    }

    /// The smallest value of a schema; `name` is the property that holds it.
    fn instance(&self, name: &str, schema: &Value) -> Value {
        let schema = self.resolved(schema);
        if let Some(all) = schema["enum"].as_array() {
            // Whoever waits for a job is not kept waiting.
            let done = all.iter().find(|one| *one == "succeeded");
            return done.or(all.first()).unwrap().clone();
        }
        for several in ["oneOf", "anyOf"] {
            if let Some(all) = schema[several].as_array() {
                let one = all.iter().find(|one| one["type"] != "null").unwrap();
                return self.instance(name, one);
            }
        }
        if let Some(all) = schema["allOf"].as_array() {
            let parts = all.iter().map(|part| self.instance(name, part));
            let fields = parts.filter_map(|part| part.as_object().cloned()).flatten();
            return Value::Object(fields.collect::<Map<_, _>>());
        }
        let kind = match &schema["type"] {
            Value::Array(kinds) => kinds.iter().find(|kind| *kind != "null").unwrap(),
            kind => kind,
        };
        match kind.as_str().unwrap_or("object") {
            "string"
                if matches!(
                    name,
                    "digest" | "sample" | "manifest" | "thumbprint" | "sha256" | "file"
                ) =>
            {
                json!(DIGEST)
            }
            "string" if matches!(name, "semver") => json!("1.0.0"),
            "string" if matches!(name, "line") => json!("line"),
            "string" => json!(ID),
            "integer" => json!(1),
            "number" => json!(0.5),
            "boolean" => json!(true),
            "array" => json!([]),
            _ => {
                let required = schema["required"].as_array().cloned().unwrap_or_default();
                let fields = required.iter().map(|name| {
                    let name = name.as_str().unwrap();
                    (name.to_owned(), self.instance(name, &schema["properties"][name]))
                });
                Value::Object(fields.collect())
            }
        }
    }

    fn answer(&self, operation: &Value) -> Response {
        let responses = operation["responses"].as_object().unwrap();
        let (status, response) = responses.iter().find(|(status, _)| status.starts_with('2')).unwrap();
        let status = axum::http::StatusCode::from_bytes(status.as_bytes()).unwrap();
        if response["content"].is_null() {
            return status.into_response();
        }
        (status, Json(self.instance("", self.schema(response)))).into_response()
    }

    /// A body is there where the document requires one, of the type that it says, with what it wants and nothing that it
    /// does not know. Bodies that are no JSON in the document (files) are not looked into.
    fn check(&self, operation: &str, body: Option<&Value>) -> Result<(), String> {
        let (method, path) = operation.split_once(' ').unwrap();
        let wanted = &self.document["paths"][path][method]["requestBody"];
        if wanted["content"]["application/json"].is_null() {
            return Ok(());
        }
        let Some(body) = body else {
            return match wanted["required"].as_bool() {
                Some(true) => Err(format!("{operation} wants a JSON body")),
                _ => Ok(()),
            };
        };
        let schema = self.schema(wanted);
        if !self.is_of_type(schema, body) {
            return Err(format!("{operation} wants a body of another type: {body}"));
        }
        let (Some(known), Some(given)) = (schema["properties"].as_object(), body.as_object()) else {
            return Ok(());
        };
        for (name, value) in given {
            let Some(schema) = known.get(name) else {
                return Err(format!("{operation} does not know '{name}': {body}"));
            };
            if !self.is_of_type(schema, value) {
                return Err(format!("{operation} wants another type of '{name}': {body}"));
            }
        }
        let required = schema["required"].as_array().into_iter().flatten();
        for name in required.filter_map(Value::as_str) {
            if !given.contains_key(name) {
                return Err(format!("{operation} wants '{name}': {body}"));
            }
        }
        Ok(())
    }

    /// What lies within the value is not looked at.
    fn is_of_type(&self, schema: &Value, value: &Value) -> bool {
        let schema = self.resolved(schema);
        for several in ["oneOf", "anyOf"] {
            if let Some(all) = schema[several].as_array() {
                return all.iter().any(|one| self.is_of_type(one, value));
            }
        }
        if let Some(all) = schema["allOf"].as_array() {
            return all.iter().all(|one| self.is_of_type(one, value));
        }
        let is = |kind: &Value| match kind.as_str() {
            Some("null") => value.is_null(),
            Some("string") => value.is_string(),
            Some("integer") => value.is_i64() || value.is_u64(),
            Some("number") => value.is_number(),
            Some("boolean") => value.is_boolean(),
            Some("array") => value.is_array(),
            Some("object") => value.is_object(),
            _ => panic!("{kind} is no type"),
        };
        match &schema["type"] {
            // Any.
            Value::Null => true,
            Value::Array(kinds) => kinds.iter().any(is),
            kind => is(kind),
        }
    }
}

async fn listen(State(listener): State<Listener>, request: Request) -> Response {
    let method = request.method().as_str().to_lowercase();
    let path = request.uri().path().to_owned();
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
    let known = listener.operation(&method, &path);
    let asked = known
        .as_ref()
        .map_or_else(|| format!("{method} {path}"), |(name, _)| name.clone());
    listener
        .asked
        .lock()
        .unwrap()
        .push((asked, serde_json::from_slice(&body).ok()));
    match known {
        Some((_, operation)) => listener.answer(operation),
        None => axum::http::StatusCode::NOT_FOUND.into_response(),
    }
}

fn files(dir: &Path, listener: &Listener) {
    std::fs::write(dir.join("samples.csv"), "a,b\n1,2\n").unwrap();
    let wanted = &listener.document["paths"]["/api/v1/datasets"]["post"]["requestBody"];
    let spec = listener.instance("", listener.schema(wanted));
    std::fs::write(dir.join("dataset.json"), spec.to_string()).unwrap();
    let signed = json!({"format": "flotilla.signing-request.v1", "model_version": ID, "manifest": DIGEST, "role": "release/line",
        "schema": "manifest", "payload": "", "envelope": "AA==", "root": ""});
    std::fs::write(dir.join("signed.json"), signed.to_string()).unwrap();
}

#[test]
fn bodies_are_held_to_the_document() {
    let listener = Listener {
        document: Arc::new(document()),
        asked: Asked::default(),
    };
    let refused = |operation: &str, body: Option<Value>| listener.check(operation, body.as_ref()).unwrap_err();
    let taken = |operation: &str, body: Option<Value>| listener.check(operation, body.as_ref()).unwrap();

    let fit = "post /api/v1/datasets/{id}/label-model";
    assert!(refused(fit, None).contains("wants a JSON body"));
    assert!(refused(fit, Some(json!([]))).contains("of another type"));
    assert!(refused(fit, Some(json!({"slices": "all"}))).contains("another type of 'slices'"));
    assert!(refused(fit, Some(json!({"model": 1}))).contains("another type of 'model'"));
    assert!(refused(fit, Some(json!({"modle": "x"}))).contains("does not know 'modle'"));
    taken(fit, Some(json!({"slices": null})));
    taken(fit, Some(json!({"slices": ["a"]})));

    let create = "post /api/v1/claim-tokens";
    assert!(refused(create, Some(json!({"uses": 1}))).contains("wants 'lifetime_s'"));
    assert!(refused(create, Some(json!({"uses": 1.5, "lifetime_s": 1}))).contains("another type of 'uses'"));
    taken(create, Some(json!({"uses": 1, "lifetime_s": 1, "tags": {}})));

    // A file, and nothing at all.
    taken("post /api/v1/datasets/{id}/imports", None);
    taken("post /api/v1/rollouts/{id}/abort", None);
}

#[tokio::test]
async fn every_command_asks_what_the_document_says() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let dir = tempfile::tempdir().unwrap();
    let listener = Listener {
        document: Arc::new(document()),
        asked: Asked::default(),
    };
    files(dir.path(), &listener);
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", socket.local_addr().unwrap());
    let routes = Router::new().fallback(listen).with_state(listener.clone());
    tokio::select! {
        served = async { axum::serve(socket, routes).await } => panic!("the listener ended: {served:?}"),
        () = try_all(&listener, &server, dir.path()) => {}
    }
}

async fn try_all(listener: &Listener, server: &str, dir: &Path) {
    for (operation, line) in changes(&listener.document) {
        if IN_BROWSERS.contains(&operation.as_str()) {
            continue;
        }
        let mut words = words(&line, dir);
        words.extend([
            "--server".to_owned(),
            server.to_owned(),
            "--token".to_owned(),
            "flt_x".to_owned(),
        ]);
        let outcome = Box::pin(run(Cli::try_parse_from(&words).unwrap())).await;
        let asked = std::mem::take(&mut *listener.asked.lock().unwrap());
        let body = asked.iter().find(|(known, _)| *known == operation);
        let Some((_, body)) = body else {
            panic!("'{line}' never asked '{operation}', but {asked:?}: {outcome:?}");
        };
        let checked = listener.check(&operation, body.as_ref());
        assert!(checked.is_ok(), "'{line}': {}", checked.unwrap_err());
        assert!(outcome.is_ok(), "{line}: {outcome:?}");
    }
}

/// An argument as the usage line writes it.
fn usage(argument: &clap::Arg) -> String {
    let mut text = argument.to_string();
    let values = argument.get_possible_values();
    if let (false, Some([name])) = (values.is_empty(), argument.get_value_names()) {
        let all: Vec<_> = values.iter().map(clap::builder::PossibleValue::get_name).collect();
        text = text.replace(name.as_str(), &all.join("|"));
    }
    if argument.is_positional() {
        return text;
    }
    if let (Some(short), Some(_)) = (argument.get_short(), argument.get_long()) {
        text = format!("-{short}, {text}");
    }
    if argument.is_required_set() {
        text
    } else {
        format!("[{text}]")
    }
}

/// What every command takes, by its words; under no words, what all of them take.
fn take(command: &clap::Command, path: &str, found: &mut BTreeMap<String, Vec<String>>) {
    let below: Vec<_> = command
        .get_subcommands()
        .filter(|below| !below.is_hide_set() && below.get_name() != "help")
        .collect();
    let is_root = path.is_empty();
    if is_root || below.is_empty() {
        let own = command.get_arguments().filter(|argument| {
            argument.is_global_set() == is_root && !matches!(argument.get_id().as_str(), "help" | "version")
        });
        found.insert(path.to_owned(), own.map(usage).collect());
    }
    for command in below {
        take(command, format!("{path} {}", command.get_name()).trim_start(), found);
    }
}

/// The console's tests hold the lines that it shows to this file.
#[test]
fn the_committed_list_of_commands_is_what_fleetctl_takes() {
    let mut command = Cli::command();
    command.build();
    let mut found = BTreeMap::new();
    take(&command, "", &mut found);
    let present = serde_json::to_string_pretty(&found).unwrap() + "\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/commands.json");
    if std::env::var_os("UPDATE_COMMANDS").is_some() {
        std::fs::write(path, &present).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == present,
        "fleet-server/cli/commands.json is not what fleetctl takes: run its test with UPDATE_COMMANDS=1"
    );
}
