//! `sessions`: who is signed in to the console.

use clap::Subcommand;
use flotilla_api_types::Page;
use flotilla_api_types::sessions::SessionInfo;
use serde_json::Value;

use crate::commands::{Context, PageArgs, done, with_more};
use crate::error::CliError;
use crate::output::table;

#[derive(Debug, Subcommand)]
pub(crate) enum SessionsCommand {
    /// Open sessions, newest first
    List {
        #[command(flatten)]
        page: PageArgs,
    },
    /// End a session
    Revoke { id: String },
}

pub(crate) async fn run(context: &Context, command: SessionsCommand) -> Result<(), CliError> {
    let client = &context.client;
    match command {
        SessionsCommand::List { page } => {
            let answer: Value = page.ask(client.get(&["sessions"])).send().await?;
            context.out.show(&answer, |page: Page<SessionInfo>| {
                let rows = page.items.into_iter().map(|session| {
                    vec![
                        session.id,
                        session.actor,
                        session.created_at,
                        session.last_seen,
                        session.expires_at,
                        session.user_agent,
                    ]
                });
                let table = table(&["id", "who", "since", "last seen", "expires", "browser"], rows);
                with_more(table, page.next_cursor.as_deref())
            })
        }
        SessionsCommand::Revoke { id } => {
            let answer: Value = client.delete(&["sessions", &id]).send().await?;
            done(&context.out, &answer, &format!("{id} ended"))
        }
    }
}
