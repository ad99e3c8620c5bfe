//! `make demo` as people run it: the whole loop on real data with real processes.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use flotilla_tests::process::{Process, eventually, http, program};
use reqwest::StatusCode;
use rustix::process::Signal;
use serde_json::{Value, json};

/// For the whole loop, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_mins(8);

fn demo(dir: &Path, arguments: &[&str]) -> anyhow::Result<Command> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut command = Command::new(program("fleetctl")?);
    command
        .current_dir(root)
        .args(["demo", "--dir"])
        .arg(dir.join("demo"))
        .args(arguments);
    Ok(command)
}

/// What it prints, up to and with the line that `last` is in, or to the end.
async fn said(process: &mut Process, last: Option<&'static str>) -> anyhow::Result<String> {
    let lines = BufReader::new(process.stdout()?).lines();
    let reading = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        for line in lines {
            let line = line?;
            text.push_str(&line);
            text.push('\n');
            if last.is_some_and(|last| line.contains(last)) {
                break;
            }
        }
        anyhow::Ok(text)
    });
    tokio::time::timeout(PATIENCE, reading)
        .await
        .context("the demo's end")??
}

/// The word behind `name` at the beginning of a line.
fn word<'a>(text: &'a str, name: &str) -> anyhow::Result<&'a str> {
    text.lines()
        .find_map(|line| line.trim_start().strip_prefix(name)?.split_whitespace().next())
        .with_context(|| format!("no '{name}' in:\n{text}"))
}

#[tokio::test]
async fn everything_is_left_running_with_a_console_that_opens_and_ends_with_ctrl_c() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let log = dir.path().join("demo.log");
    let mut process = Process::start(&mut demo(dir.path(), &[])?, &log, Stdio::piped())?;
    let text = said(&mut process, Some("Ctrl-C stops it")).await?;
    anyhow::ensure!(text.contains("Ctrl-C stops it"), "{text}\n{}", process.log_tail());
    let (api, token) = (word(&text, "API  ")?, word(&text, "token  ")?);
    let http = http();

    // The link: the page, and a session, once.
    let (page, code) = word(&text, "console  ")?
        .split_once("#/sign-in/")
        .context("a link that signs in")?;
    let page = http.get(page).send().await?;
    assert_eq!(page.status(), StatusCode::OK);
    assert!(page.text().await?.contains("<script"), "the console's page");
    let open = || http.post(format!("{api}/session")).json(&json!({"code": code})).send();
    let opened = open().await?;
    assert_eq!(opened.status(), StatusCode::OK);
    assert!(opened.headers().contains_key("set-cookie"));
    assert_eq!(open().await?.status(), StatusCode::UNAUTHORIZED, "the link works once");

    let docs = http.get(word(&text, "API docs  ")?).basic_auth("me", Some(token));
    assert_eq!(docs.send().await?.status(), StatusCode::OK);
    // The server was taken away and came back a moment ago: the last device may still be on its way.
    eventually("three devices online", Duration::from_mins(1), async || {
        let asked = http
            .get(format!("{api}/devices?filter=status:online"))
            .bearer_auth(token);
        let devices: Value = asked.send().await?.error_for_status()?.json().await?;
        Ok((devices["total"] == 3).then_some(()))
    })
    .await?;

    process.signal(Signal::INT)?;
    let status = process.ended(Duration::from_mins(1)).await?;
    assert!(status.success(), "{status}");
    assert!(http.get(api).send().await.is_err(), "the server is gone");
    Ok(())
}

#[tokio::test]
async fn every_figure_holds_on_the_other_data_set() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let log = dir.path().join("demo.log");
    let mut process = Process::start(
        &mut demo(dir.path(), &["--data", "digits", "--once"])?,
        &log,
        Stdio::piped(),
    )?;
    let text = said(&mut process, None).await?;
    let tail = process.log_tail();
    let status = process.ended(Duration::from_mins(1)).await?;
    assert!(status.success(), "{text}\n{tail}");
    let figures: Vec<&str> = text.lines().filter(|line| line.starts_with("figure ")).collect();
    assert!(figures.len() >= 5, "{text}");
    println!("{}", figures.join("\n"));
    Ok(())
}
