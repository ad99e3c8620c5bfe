//! `audit`: what happened, in chains that show if anything was changed or removed.

use clap::{Args, Subcommand};
use flotilla_api_types::Page;
use flotilla_api_types::audit::{AuditEvent, AuditVerification, ChainVerification, DeviceChainVerification};
use serde_json::Value;

use crate::commands::{Context, PageArgs, with_more};
use crate::error::CliError;
use crate::output::{or_dash, pairs, table};

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Events, newest first
    List(ListArgs),
    /// Recompute every chain; exit code 1 if one is broken
    Verify {
        /// Only this device's chain, and how far it goes
        #[arg(long)]
        device: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only this kind of event; `*` at the end: kinds that begin so (`rollout.*`)
    #[arg(long)]
    event: Option<String>,
    /// Only what this actor did: `token:admin`, `device:press-07`, `reconciler:*`
    #[arg(long)]
    actor: Option<String>,
    /// Only what was done to this: `device:press-07`, `rollout:<id>`, `session:*`
    #[arg(long)]
    subject: Option<String>,
    /// RFC 3339: only what happened then or later
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// RFC 3339: only what happened before
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// This device's own chain instead of the server's log
    #[arg(long)]
    device: Option<String>,
    #[command(flatten)]
    page: PageArgs,
}

pub(crate) async fn run(context: &Context, command: AuditCommand) -> Result<(), CliError> {
    let client = &context.client;
    match command {
        AuditCommand::List(args) => {
            let call = args
                .page
                .ask(client.get(&["audit"]))
                .maybe("event", args.event)
                .maybe("actor", args.actor)
                .maybe("subject", args.subject)
                .maybe("from", args.from)
                .maybe("to", args.to)
                .maybe("device", args.device);
            let answer: Value = call.send().await?;
            context.out.show(&answer, |page: Page<AuditEvent>| {
                let rows = page.items.into_iter().map(|event| {
                    vec![
                        event.index.to_string(),
                        event.at,
                        event.actor,
                        event.event,
                        event.subject,
                        or_dash(event.device),
                        pairs(event.detail),
                    ]
                });
                let header = ["no", "at", "who", "event", "subject", "device", "detail"];
                with_more(table(&header, rows), page.next_cursor.as_deref())
            })
        }
        AuditCommand::Verify { device: Some(device) } => {
            let answer: Value = client.get(&["audit", "verify", &device]).send().await?;
            let ok = answer.pointer("/chain/ok").and_then(Value::as_bool).unwrap_or(false);
            context.out.show(&answer, |verified: DeviceChainVerification| {
                table(&HEADER, [row(verified.device.to_string(), &verified.chain)])
            })?;
            intact(ok)
        }
        AuditCommand::Verify { device: None } => {
            let answer: Value = client.get(&["audit", "verify"]).send().await?;
            let ok = answer.get("ok").and_then(Value::as_bool).unwrap_or(false);
            context.out.show(&answer, |verification: AuditVerification| {
                verification_table(&verification)
            })?;
            intact(ok)
        }
    }
}

fn intact(ok: bool) -> Result<(), CliError> {
    if ok {
        return Ok(());
    }
    Err(CliError::Failed("an audit chain is broken".to_owned()))
}

const HEADER: [&str; 4] = ["chain", "entries", "head", "verdict"];

fn row(name: String, chain: &ChainVerification) -> Vec<String> {
    let verdict = match (&chain.problem, chain.ok) {
        (Some(problem), _) => problem.clone(),
        (None, true) => "intact".to_owned(),
        (None, false) => "BROKEN".to_owned(),
    };
    vec![name, chain.entries.to_string(), chain.head.short(), verdict]
}

/// The server's chain, those of all devices in one line, and those that are broken.
fn verification_table(verification: &AuditVerification) -> String {
    let (devices, broken) = (verification.devices, verification.broken_devices);
    let verdict = match broken {
        0 => "intact".to_owned(),
        broken => format!("{broken} BROKEN"),
    };
    let mut rows = vec![
        row("server".to_owned(), &verification.server),
        vec![
            format!("{devices} devices"),
            verification.device_entries.to_string(),
            "-".to_owned(),
            verdict,
        ],
    ];
    rows.extend(verification.broken.iter().map(|d| row(d.device.to_string(), &d.chain)));
    let table = table(&HEADER, rows);
    let named = verification.broken.len() as u64;
    if named < broken {
        return format!("{table}\n{named} of {broken} broken chains");
    }
    table
}

#[cfg(test)]
mod tests {
    use flotilla_protocol::ids::{DeviceId, Digest};

    use super::*;
    use crate::output::squeezed;

    #[test]
    fn what_is_broken_is_named_and_the_rest_counted() {
        let chain = |problem: Option<&str>| ChainVerification {
            ok: problem.is_none(),
            entries: 3,
            head: Digest::of(b"head"),
            problem: problem.map(str::to_owned),
        };
        let verification = AuditVerification {
            ok: false,
            server: chain(None),
            devices: 40,
            device_entries: 120,
            broken_devices: 2,
            broken: vec![DeviceChainVerification {
                device: DeviceId::new("press-07").unwrap(),
                epochs: 1,
                chain: chain(Some("entry 1 is missing")),
            }],
        };
        let text = verification_table(&verification).replace(&Digest::of(b"head").short(), "HEAD");
        let expected = [
            "CHAIN ENTRIES HEAD VERDICT",
            "server 3 HEAD intact",
            "40 devices 120 - 2 BROKEN",
            "press-07 3 HEAD entry 1 is missing",
            "1 of 2 broken chains",
        ];
        assert_eq!(squeezed(&text), expected);
    }
}
