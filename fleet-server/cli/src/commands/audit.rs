//! `audit`: what happened, in chains that show if anything was changed or removed.

use clap::Subcommand;
use flotilla_api_types::Page;
use flotilla_api_types::audit::{AuditEvent, AuditVerification, ChainVerification};
use serde_json::Value;

use crate::commands::{Context, PageArgs, with_more};
use crate::error::CliError;
use crate::output::{or_dash, pairs, table};

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Events
    List {
        /// Only this kind of event
        #[arg(long)]
        event: Option<String>,
        /// Only of this device
        #[arg(long)]
        device: Option<String>,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Recompute every chain; exit code 1 if one is broken
    Verify,
}

pub(crate) async fn run(context: &Context, command: AuditCommand) -> Result<(), CliError> {
    let client = &context.client;
    match command {
        AuditCommand::List { event, device, page } => {
            let call = page
                .ask(client.get(&["audit"]))
                .maybe("event", event)
                .maybe("device", device);
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
        AuditCommand::Verify => {
            let answer: Value = client.get(&["audit", "verify"]).send().await?;
            let ok = answer.get("ok").and_then(Value::as_bool).unwrap_or(false);
            context.out.show(&answer, |verification: AuditVerification| {
                verification_table(&verification)
            })?;
            if ok {
                return Ok(());
            }
            Err(CliError::Failed("an audit chain is broken".to_owned()))
        }
    }
}

fn verification_table(verification: &AuditVerification) -> String {
    let row = |name: String, chain: &ChainVerification| {
        let verdict = match (&chain.problem, chain.ok) {
            (Some(problem), _) => problem.clone(),
            (None, true) => "intact".to_owned(),
            (None, false) => "BROKEN".to_owned(),
        };
        vec![name, chain.entries.to_string(), chain.head.short(), verdict]
    };
    let mut rows = vec![row("server".to_owned(), &verification.server)];
    rows.extend(verification.devices.iter().map(|d| row(d.device.to_string(), &d.chain)));
    table(&["chain", "entries", "head", "verdict"], rows)
}
