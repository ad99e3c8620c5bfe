//! `sign`: release signatures. `export` and `import` talk to the server; `apply` and `keygen` need no network and belong on
//! the machine that holds the release key.

use std::io::{BufRead as _, IsTerminal as _, stdin};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use flotilla_api_types::common::TrustDocuments;
use flotilla_api_types::models::{AddSignature, ManifestDocument, ModelVersion};
use flotilla_protocol::ids::ModelVersionId;
use flotilla_protocol::trust::KeyPair;
use serde_json::{Value, json};

use crate::client::Client;
use crate::commands::{Context, fleet, models};
use crate::error::CliError;
use crate::files;
use crate::output::Output;
use crate::signing::{self, SigningRequest};

#[derive(Debug, Subcommand)]
pub(crate) enum SignCommand {
    /// Make an Ed25519 key (PKCS#8 PEM); its public half stands beside it in FILE.pub
    Keygen {
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
    },
    /// Write what is to be signed for a model version into a file
    Export {
        model_version: ModelVersionId,
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
    },
    /// Show what a file asks to sign, and sign it; works without network
    Apply {
        file: PathBuf,
        /// The release key (PKCS#8 PEM)
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
        /// Sign without asking
        #[arg(long)]
        yes: bool,
    },
    /// Give a signature to the server
    Import {
        model_version: ModelVersionId,
        file: PathBuf,
    },
    /// Show a fleet's root, checked against its own keys
    Root {
        /// Envelope in base64; without it the server's is shown
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

impl SignCommand {
    /// `apply`, `keygen` and a root from a file must work where no server is known.
    pub(crate) const fn is_offline(&self) -> bool {
        matches!(
            self,
            Self::Keygen { .. } | Self::Apply { .. } | Self::Root { file: Some(_) }
        )
    }
}

pub(crate) fn run_offline(out: &Output, command: SignCommand) -> Result<(), CliError> {
    match command {
        SignCommand::Keygen { output } => keygen(out, &output),
        SignCommand::Apply { file, key, output, yes } => apply(out, &file, &key, &output, yes),
        SignCommand::Root { file: Some(file) } => {
            let root = signing::decode_root(&files::read_text(&file)?)?;
            out.line(&fleet::describe_root(&root))
        }
        SignCommand::Root { file: None } | SignCommand::Export { .. } | SignCommand::Import { .. } => {
            Err(CliError::Usage("this needs a server".to_owned()))
        }
    }
}

pub(crate) async fn run(context: &Context, command: SignCommand) -> Result<(), CliError> {
    match command {
        SignCommand::Export { model_version, output } => {
            let request = export(&context.client, model_version).await?;
            let told = request.review()?.describe();
            files::write_json(&output, &request)?;
            if context.out.is_json() {
                return context.out.print_json(&request);
            }
            context.out.line(&format!("{told}\n\n{} written", output.display()))
        }
        SignCommand::Import { model_version, file } => {
            let answer = import(&context.client, model_version, &read_request(&file)?).await?;
            context
                .out
                .show(&answer, |version: ModelVersion| models::describe(&version))
        }
        SignCommand::Root { file: None } => {
            let documents: TrustDocuments = context.client.get(&["trust"]).send().await?;
            let root = signing::decode_root(&documents.root)?;
            if context.out.is_json() {
                return context.out.print_json(&*root);
            }
            context.out.line(&fleet::describe_root(&root))
        }
        offline @ (SignCommand::Keygen { .. } | SignCommand::Apply { .. } | SignCommand::Root { .. }) => {
            run_offline(&context.out, offline)
        }
    }
}

/// What is to be signed for a model version.
pub(crate) async fn export(client: &Client, model_version: ModelVersionId) -> Result<SigningRequest, CliError> {
    let id = model_version.to_string();
    let document: ManifestDocument = client.get(&["model-versions", &id, "manifest"]).send().await?;
    Ok(SigningRequest::new(model_version, document))
}

/// Gives the signatures of a request to the server.
pub(crate) async fn import(
    client: &Client,
    model_version: ModelVersionId,
    request: &SigningRequest,
) -> Result<Value, CliError> {
    if request.model_version != model_version {
        let other = request.model_version;
        return Err(CliError::Usage(format!(
            "the file is for model version {other}, not {model_version}"
        )));
    }
    let Some(envelope) = request.envelope.clone() else {
        return Err(CliError::Usage(
            "the file holds no signature yet: fleetctl sign apply".to_owned(),
        ));
    };
    let id = model_version.to_string();
    let call = client.post(&["model-versions", &id, "signatures"]);
    call.json(&AddSignature { envelope })?.send().await
}

fn read_request(file: &Path) -> Result<SigningRequest, CliError> {
    let text = files::read_text(file)?;
    serde_json::from_str(&text).map_err(|why| {
        let told = format!("this is no request of 'fleetctl sign export', nor what 'sign apply' made of one: {why}");
        CliError::file(file, told)
    })
}

pub(crate) fn read_key(path: &Path) -> Result<KeyPair, CliError> {
    KeyPair::from_pkcs8_pem(&files::read_text(path)?).map_err(|why| CliError::file(path, why))
}

fn keygen(out: &Output, output: &Path) -> Result<(), CliError> {
    let key = signing::generate_key()?;
    files::write_new_secret(output, key.to_pkcs8_pem()?.as_bytes())?;
    let mut public = output.as_os_str().to_owned();
    public.push(".pub");
    let public = PathBuf::from(public);
    files::write(&public, key.public().to_pem()?.as_bytes())?;
    if out.is_json() {
        let made = json!({"id": key.id(), "public_key": key.public(), "file": output, "public_file": public});
        return out.print_json(&made);
    }
    out.line(&format!(
        "key {}\n{} (keep it secret), {} written",
        key.id(),
        output.display(),
        public.display()
    ))
}

fn apply(out: &Output, file: &Path, key: &Path, output: &Path, yes: bool) -> Result<(), CliError> {
    let request = read_request(file)?;
    out.note(&request.review()?.describe());
    let key = read_key(key)?;
    if !yes && !confirmed(out, &format!("Sign this with key {}? [y/N]", key.id().0.short()))? {
        return Err(CliError::Failed("not signed".to_owned()));
    }
    let signed = request.signed(&key)?;
    files::write_json(output, &signed)?;
    if out.is_json() {
        return out.print_json(&signed);
    }
    out.line(&format!("signed by {}; {} written", key.id(), output.display()))
}

fn confirmed(out: &Output, question: &str) -> Result<bool, CliError> {
    if !stdin().is_terminal() {
        return Err(CliError::Usage(
            "there is no terminal to confirm at: review, then repeat with --yes".to_owned(),
        ));
    }
    out.note(question);
    let mut answer = String::new();
    stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signing::tests::{release_keys, request};

    #[test]
    fn keys_are_private_and_never_overwritten() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("release.key");
        let out = Output::new(false);
        keygen(&out, &path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(
            std::fs::read_to_string(dir.path().join("release.key.pub"))
                .unwrap()
                .contains("PUBLIC KEY")
        );
        let before = std::fs::read(&path).unwrap();
        assert!(keygen(&out, &path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn applying_needs_no_server_and_writes_a_signed_request() {
        let dir = tempfile::tempdir().unwrap();
        let (unsigned, key, signed) = (dir.path().join("u"), dir.path().join("k"), dir.path().join("s"));
        files::write_json(&unsigned, &request()).unwrap();
        let [release, _] = release_keys();
        files::write_new_secret(&key, release.to_pkcs8_pem().unwrap().as_bytes()).unwrap();
        let out = Output::new(false);
        apply(&out, &unsigned, &key, &signed, true).unwrap();
        let signed: SigningRequest = files::read_json(&signed).unwrap();
        assert!(signed.envelope.is_some());
        signed.review().unwrap();
    }
}
