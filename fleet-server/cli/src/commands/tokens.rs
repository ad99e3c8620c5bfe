//! `tokens`: claim tokens, with which devices enrol.

use std::path::PathBuf;

use clap::Subcommand;
use flotilla_api_types::Page;
use flotilla_api_types::devices::{ClaimToken, CreateClaimToken, CreatedClaimToken};
use serde_json::Value;

use crate::commands::{Context, PageArgs, done, parse_pair, to_map, with_more};
use crate::error::CliError;
use crate::files;
use crate::output::{fields, pairs, table, yes_no};

#[derive(Debug, Subcommand)]
pub(crate) enum TokensCommand {
    /// Make a claim token; its factory bundle is shown once
    Create {
        /// How many devices may enrol with it
        #[arg(long, default_value_t = 1)]
        uses: u32,
        /// Hours until it expires
        #[arg(long, default_value_t = 24)]
        hours: u64,
        /// Tags that its devices get
        #[arg(long = "tag", value_parser = parse_pair, value_name = "NAME=VALUE")]
        tags: Vec<(String, String)>,
        /// Write the factory bundle here instead of printing it
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// All claim tokens
    List {
        #[command(flatten)]
        page: PageArgs,
    },
    /// One claim token; its secret was shown when it was made
    Show { id: String },
    /// No device can enrol with it any more
    Revoke { id: String },
}

pub(crate) async fn run(context: &Context, command: TokensCommand) -> Result<(), CliError> {
    let client = &context.client;
    match command {
        TokensCommand::Create {
            uses,
            hours,
            tags,
            output,
        } => {
            let body = CreateClaimToken {
                uses,
                lifetime_s: hours.saturating_mul(3600),
                tags: to_map(tags),
            };
            let answer: Value = client.post(&["claim-tokens"]).json(&body)?.send().await?;
            let bundle = answer.get("factory_bundle").cloned().unwrap_or_default();
            let Some(path) = output else {
                return context
                    .out
                    .print_json(&if context.out.is_json() { answer } else { bundle });
            };
            let mut text = serde_json::to_vec_pretty(&bundle).map_err(|why| CliError::file(&path, why))?;
            text.push(b'\n');
            files::write_new_secret(&path, &text)?;
            context.out.show(&answer, |created: CreatedClaimToken| {
                let token = created.token;
                let until = token.expires_at;
                format!(
                    "{}: {uses} device(s) until {until}; {} written",
                    token.id,
                    path.display()
                )
            })
        }
        TokensCommand::List { page } => {
            let answer: Value = page.ask(client.get(&["claim-tokens"])).send().await?;
            context.out.show(&answer, |page: Page<ClaimToken>| {
                let rows = page.items.into_iter().map(|token| {
                    vec![
                        token.id.to_string(),
                        format!("{}/{}", token.used, token.uses),
                        token.expires_at,
                        yes_no(token.revoked),
                        pairs(token.tags),
                    ]
                });
                let table = table(&["id", "used", "expires", "revoked", "tags"], rows);
                with_more(table, page.next_cursor.as_deref())
            })
        }
        TokensCommand::Show { id } => {
            let answer: Value = client.get(&["claim-tokens", &id]).send().await?;
            context.out.show(&answer, |token: ClaimToken| {
                fields(&[
                    ("token", token.id.to_string()),
                    ("used", format!("{} of {}", token.used, token.uses)),
                    ("expires", token.expires_at),
                    ("revoked", yes_no(token.revoked)),
                    ("tags", pairs(token.tags)),
                    ("created", token.created_at),
                ])
            })
        }
        TokensCommand::Revoke { id } => {
            let answer: Value = client.delete(&["claim-tokens", &id]).send().await?;
            done(&context.out, &answer, &format!("{id} revoked"))
        }
    }
}
