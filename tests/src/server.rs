//! A real fleet server in a folder of its own.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;

use crate::process::{Process, http, program};

/// The server and how to reach it. Ports are chosen once, so that devices find it again after a restart.
#[derive(Debug)]
pub struct Server {
    process: Option<Process>,
    dir: PathBuf,
    token: String,
    http: reqwest::Client,
    pub api: String,
    pub broker: String,
    pub device_api: String,
    /// What it printed when it started, if it did.
    pub sign_in_link: Option<String>,
}

impl Server {
    /// `fleet-server init`, then `serve`.
    pub async fn start(dir: &Path) -> anyhow::Result<Self> {
        let ports = free_ports()?;
        let made = Command::new(program("fleet-server")?)
            .arg("init")
            .arg("--dir")
            .arg(dir.join("fleet"))
            .arg("--offline-keys")
            .arg(dir.join("offline-keys"))
            .args(["--name", "test", "--bundle-interval-ms", "300"])
            .args(["--api", &format!("127.0.0.1:{}", ports[0])])
            .args(["--device-api", &format!("127.0.0.1:{}", ports[1])])
            .args(["--broker", &format!("127.0.0.1:{}", ports[2])])
            .output()?;
        anyhow::ensure!(made.status.success(), "init: {}", String::from_utf8_lossy(&made.stderr));
        let token = std::fs::read_to_string(dir.join("fleet/admin.token"))?
            .trim()
            .to_owned();
        let mut server = Self {
            process: None,
            dir: dir.to_owned(),
            token,
            http: http(),
            api: String::new(),
            broker: String::new(),
            device_api: String::new(),
            sign_in_link: None,
        };
        server.serve().await?;
        Ok(server)
    }

    /// Starts it (again); returns when it is ready.
    pub async fn serve(&mut self) -> anyhow::Result<()> {
        self.serve_with(&[]).await
    }

    /// [`Server::serve`] with further flags.
    pub async fn serve_with(&mut self, flags: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new(program("fleet-server")?);
        command
            .arg("serve")
            .arg("--config")
            .arg(self.dir.join("fleet/fleet.toml"))
            .args(flags);
        let mut process = Process::start(&mut command, &self.dir.join("server.log"), Stdio::piped())?;
        let stdout = process.stdout()?;
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).map(|_| line)
        });
        let line = tokio::time::timeout(Duration::from_mins(1), line)
            .await
            .context("the server is not ready")???;
        let ready: Value = serde_json::from_str(&line).with_context(|| format!("not ready: {}", process.log_tail()))?;
        let address = |key: &str| ready[key].as_str().unwrap_or_default().to_owned();
        (self.api, self.broker, self.device_api) = (address("api"), address("broker"), address("device_api"));
        self.sign_in_link = ready["sign_in"].as_str().map(str::to_owned);
        self.process = Some(process);
        Ok(())
    }

    /// SIGTERM; must stop cleanly.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let status: ExitStatus = self.take()?.terminate(Duration::from_secs(30)).await?;
        anyhow::ensure!(status.success(), "the server stopped with {status}");
        Ok(())
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.take()?.kill()
    }

    fn take(&mut self) -> anyhow::Result<Process> {
        self.process.take().context("the server does not run")
    }

    pub fn dir(&self) -> PathBuf {
        self.dir.join("fleet")
    }

    pub fn database(&self) -> PathBuf {
        self.dir.join("fleet/data/flotilla.db")
    }

    pub fn offline_key(&self, name: &str) -> PathBuf {
        self.dir.join("offline-keys").join(name)
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    pub fn log_tail(&self) -> String {
        self.process.as_ref().map(Process::log_tail).unwrap_or_default()
    }

    /// A request with the admin token.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.api))
            .bearer_auth(&self.token)
            .timeout(Duration::from_mins(1))
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        answer(path, self.request(Method::GET, path).send().await?).await
    }

    pub async fn post(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        answer(path, self.request(Method::POST, path).json(&body).send().await?).await
    }

    pub async fn post_csv(&self, path: &str, csv: String) -> anyhow::Result<Value> {
        let request = self
            .request(Method::POST, path)
            .header("content-type", "text/csv")
            .body(csv);
        answer(path, request.send().await?).await
    }

    /// Status and body, whatever they are.
    pub async fn raw(&self, request: reqwest::RequestBuilder) -> anyhow::Result<(StatusCode, Value)> {
        let response = request.send().await?;
        let status = response.status();
        let text = response.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// Follows a job to its end.
    pub async fn job(&self, id: &str) -> anyhow::Result<()> {
        loop {
            let job = self.get(&format!("/api/v1/jobs/{id}?wait_ms=20000")).await?;
            match job["state"].as_str() {
                Some("succeeded") => return Ok(()),
                Some("queued" | "running") => {}
                _ => bail!("job {job}"),
            }
        }
    }
}

async fn answer(path: &str, response: Response) -> anyhow::Result<Value> {
    let status = response.status();
    let text = response.text().await?;
    anyhow::ensure!(status.is_success(), "{path}: {status}: {text}");
    Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
}

/// Three ports that were free a moment ago.
fn free_ports() -> anyhow::Result<[u16; 3]> {
    let listeners = [0; 3].map(|_| std::net::TcpListener::bind("127.0.0.1:0"));
    let mut ports = [0; 3];
    for (port, listener) in ports.iter_mut().zip(listeners) {
        *port = listener?.local_addr()?.port();
    }
    Ok(ports)
}
