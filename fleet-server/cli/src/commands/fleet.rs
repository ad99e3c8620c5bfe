//! `login`, `me`, `trust`: whom we talk to, as whom, and what this fleet trusts.

use clap::Subcommand;
use flotilla_api_types::common::{Me, TrustDocuments};
use flotilla_api_types::time::rfc3339;
use flotilla_protocol::trust::{Root, Verified};
use serde_json::Value;

use crate::commands::Context;
use crate::config::{GlobalArgs, Profile};
use crate::error::CliError;
use crate::output::{fields, table};
use crate::signing::decode_root;

#[derive(Debug, Subcommand)]
pub(crate) enum TrustCommand {
    /// The fleet's root: which keys speak for which role
    Show,
}

/// Asks the server who we are, then remembers server, token file and certificates.
pub(crate) async fn login(context: &Context, global: &GlobalArgs) -> Result<(), CliError> {
    let Some(token_file) = &global.token_file else {
        return Err(CliError::Usage(
            "login needs --token-file: profiles remember files, not tokens".to_owned(),
        ));
    };
    let answer: Value = context.client.get(&["me"]).send().await?;
    let absolute = |path: &std::path::Path| std::path::absolute(path).map_err(|why| CliError::file(path, why));
    let profile = Profile {
        server: Some(context.client.server().to_owned()),
        token_file: Some(absolute(token_file)?),
        ca: global.ca.as_deref().map(absolute).transpose()?,
    };
    let path = global.profile_path()?;
    profile.write(&path)?;
    context.out.show(&answer, |me: Me| {
        let server = context.client.server();
        format!(
            "logged in to {server} as {} ({}); {} written",
            me.actor,
            me.roles.join(", "),
            path.display()
        )
    })
}

pub(crate) async fn me(context: &Context) -> Result<(), CliError> {
    let answer: Value = context.client.get(&["me"]).send().await?;
    context.out.show(&answer, |me: Me| {
        fields(&[
            ("actor", me.actor),
            ("roles", me.roles.join(", ")),
            ("server", context.client.server().to_owned()),
            ("server version", me.server_version),
        ])
    })
}

pub(crate) async fn trust(context: &Context, command: TrustCommand) -> Result<(), CliError> {
    let TrustCommand::Show = command;
    let answer: Value = context.client.get(&["trust"]).send().await?;
    if context.out.is_json() {
        return context.out.print_json(&answer);
    }
    let documents: TrustDocuments = serde_json::from_value(answer).map_err(|why| CliError::Answer {
        path: "/api/v1/trust".to_owned(),
        why: why.to_string(),
    })?;
    let root = decode_root(&documents.root)?;
    let head = fields(&[
        ("fleet", format!("{} ({})", documents.fleet_name, documents.fleet)),
        ("broker", documents.broker),
        ("device API", documents.device_api),
    ]);
    context.out.line(&format!("{head}\n{}", describe_root(&root)))
}

pub(crate) fn describe_root(root: &Verified<Root>) -> String {
    let head = fields(&[
        ("root version", root.header.version.to_string()),
        ("root digest", root.digest().to_string()),
        ("issued", rfc3339(root.header.issued)),
        ("expires", rfc3339(root.header.expires)),
    ]);
    let roles = table(
        &["role", "threshold", "keys"],
        root.roles.iter().map(|(role, keys)| {
            let ids: Vec<String> = keys.keys.iter().map(|id| id.0.short()).collect();
            vec![role.clone(), keys.threshold.to_string(), ids.join(" ")]
        }),
    );
    format!("{head}\n\n{roles}")
}
