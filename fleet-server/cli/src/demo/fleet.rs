//! The demo's fleet: one server and three devices, as real processes, in one folder.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flotilla_protocol::enroll::FactoryBundle;
use flotilla_protocol::ids::DeviceId;
use futures_util::future::join_all;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::client::Client;
use crate::config::{Connection, Profile};
use crate::demo::processes::Process;
use crate::demo::stream::make_fifo;
use crate::error::CliError;
use crate::files;

/// Marks a folder as a demo's, which the next demo may remove.
const MARKER: &str = ".flotilla-demo";
const START: Duration = Duration::from_mins(1);
const STOP: Duration = Duration::from_secs(15);
/// Between two looks at something that cannot be waited for otherwise.
const LOOK: Duration = Duration::from_millis(100);
/// How often devices report: often, for a demo.
const BUNDLE_INTERVAL_MS: u64 = 1000;

/// One device and its place in the story.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) id: DeviceId,
    /// The control's sensor stays as it was.
    pub(crate) is_control: bool,
    folder: PathBuf,
    process: Option<Process>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Fleet {
    folder: PathBuf,
    programs: PathBuf,
    server: Option<Process>,
    pub(crate) devices: Vec<Device>,
    pub(crate) api: String,
    /// Held for as long as the demo lives.
    _lock: File,
}

/// What the server says when it is ready.
#[derive(Deserialize)]
struct Ready {
    ready: bool,
    api: String,
}

/// The agent's configuration, as far as the demo sets it.
#[derive(Serialize)]
struct AgentConfig<'a> {
    data_dir: &'a Path,
    device_id: &'a DeviceId,
    hardware_class: &'a str,
    listen: &'a str,
    enrolment: Enrolment<'a>,
    link: Link,
    telemetry: Telemetry,
    stream: [Stream<'a>; 1],
}

#[derive(Serialize)]
struct Enrolment<'a> {
    bundle: &'a Path,
}

#[derive(Serialize)]
struct Link {
    backoff_cap_ms: u64,
}

#[derive(Serialize)]
struct Telemetry {
    bundle_interval_ms: u64,
}

#[derive(Serialize)]
struct Stream<'a> {
    name: &'a str,
    path: &'a Path,
    kind: &'a str,
    model: &'a str,
}

impl Fleet {
    /// An empty folder for a demo. A demo's older folder is removed; anything else is refused.
    pub(crate) fn prepare(folder: &Path, programs: &Path) -> Result<Self, CliError> {
        let failed = |why: std::io::Error| CliError::file(folder, why);
        // Children run elsewhere: their arguments must not depend on where.
        let absolute = |path: &Path| std::path::absolute(path).map_err(|why| CliError::file(path, why));
        let programs = absolute(programs)?;
        for program in ["fleet-server", "fleet-agent"] {
            let path = programs.join(program);
            if !path.is_file() {
                return Err(CliError::file(
                    &path,
                    "there is no such program: build it, or name its folder with --bin-dir",
                ));
            }
        }
        if folder.exists() {
            if !folder.join(MARKER).is_file() {
                return Err(CliError::file(
                    folder,
                    "exists and is no demo's folder: choose another with --dir",
                ));
            }
            // A running demo keeps its folder.
            drop(take(folder)?);
            fs::remove_dir_all(folder).map_err(failed)?;
        }
        fs::create_dir_all(folder.join("logs")).map_err(failed)?;
        let mut lock = take(folder)?;
        lock.write_all(b"Made by fleetctl demo, which may remove this folder.\n")
            .map_err(failed)?;
        Ok(Self {
            folder: absolute(folder)?,
            programs,
            server: None,
            devices: Vec::new(),
            api: String::new(),
            _lock: lock,
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(crate) fn token_file(&self) -> PathBuf {
        self.folder.join("fleet/admin.token")
    }

    /// For `fleetctl`, which it tells the server's address and the token.
    pub(crate) fn profile(&self) -> PathBuf {
        self.folder.join("fleetctl.toml")
    }

    pub(crate) fn release_key(&self) -> PathBuf {
        self.folder.join("offline-keys/release.key")
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join("logs").join(format!("{name}.log"))
    }

    /// `fleet-server init`, on ports that stay the same when the server is restarted.
    pub(crate) async fn init(&self, name: &str) -> Result<(), CliError> {
        let mut arguments: Vec<OsString> = ["init", "--name", name, "--host", "localhost"].map(Into::into).to_vec();
        arguments.extend(["--dir".into(), self.folder.join("fleet").into()]);
        arguments.extend(["--offline-keys".into(), self.folder.join("offline-keys").into()]);
        arguments.extend(["--bundle-interval-ms".into(), BUNDLE_INTERVAL_MS.to_string().into()]);
        // All three at once: a port that is free is taken until the last is found.
        let listeners = [("--api", 8080), ("--device-api", 8443), ("--broker", 8883)]
            .map(|(flag, preferred)| free_port(preferred).map(|listener| (flag, listener)));
        for found in listeners {
            let (flag, listener) = found?;
            let address = listener.local_addr().map_err(CliError::Output)?;
            arguments.extend([flag.into(), address.to_string().into()]);
        }
        let log = self.log("init");
        Process::start(
            "fleet-server init",
            &self.programs.join("fleet-server"),
            &arguments,
            &log,
        )?
        .succeed(START)
        .await
    }

    /// `fleet-server serve`; returns when it is ready.
    pub(crate) async fn start_server(&mut self) -> Result<Client, CliError> {
        let config = self.folder.join("fleet/fleet.toml");
        let arguments: Vec<OsString> = vec!["serve".into(), "--config".into(), config.into()];
        let program = self.programs.join("fleet-server");
        let log = self.log("server");
        let server = self
            .server
            .insert(Process::start("fleet-server", &program, &arguments, &log)?);
        let line = server.line(START).await?;
        let ready: Ready = serde_json::from_str(&line).map_err(|why| CliError::Failed(format!("'{line}': {why}")))?;
        if !ready.ready {
            return Err(CliError::Failed(format!("the server is not ready: {line}")));
        }
        self.api = ready.api;
        self.write_profile()?;
        self.client()
    }

    /// The port is any where the usual one is taken: whoever follows the demo's story must not have to know.
    fn write_profile(&self) -> Result<(), CliError> {
        let profile = Profile {
            server: Some(self.api.clone()),
            token_file: Some(self.token_file()),
            ca: None,
        };
        profile.write(&self.profile())
    }

    /// Speaks with the server as its administrator.
    pub(crate) fn client(&self) -> Result<Client, CliError> {
        Client::new(&Connection {
            server: self.api.clone(),
            token: Some(files::read_text(&self.token_file())?.trim().to_owned()),
            ca_pem: None,
        })
    }

    /// Stops the server; an error if it does not end cleanly.
    pub(crate) async fn stop_server(&mut self) -> Result<(), CliError> {
        let Some(mut server) = self.server.take() else {
            return Ok(());
        };
        if server.stop(STOP).await? {
            return Ok(());
        }
        Err(CliError::Failed(format!(
            "the server did not stop cleanly\n{}",
            server.tail()
        )))
    }

    /// Starts an agent that will enrol with the bundle.
    pub(crate) fn start_device(&mut self, id: &str, is_control: bool, bundle: &FactoryBundle) -> Result<(), CliError> {
        let id: DeviceId = id.parse().map_err(|why| CliError::Failed(format!("{why}")))?;
        let folder = self.folder.join("devices").join(id.as_str());
        fs::create_dir_all(&folder).map_err(|why| CliError::file(&folder, why))?;
        let device = Device {
            id,
            is_control,
            folder,
            process: None,
        };
        make_fifo(&device.sensor())?;
        let bundle_path = device.folder.join("factory.json");
        write_bundle(&bundle_path, bundle)?;
        let config = AgentConfig {
            data_dir: &device.folder.join("data"),
            device_id: &device.id,
            hardware_class: "demo",
            listen: "127.0.0.1:0",
            enrolment: Enrolment { bundle: &bundle_path },
            link: Link { backoff_cap_ms: 1000 },
            telemetry: Telemetry {
                bundle_interval_ms: BUNDLE_INTERVAL_MS,
            },
            stream: [Stream {
                name: "sensor",
                path: &device.sensor(),
                kind: "fifo",
                model: "main",
            }],
        };
        let config_path = device.folder.join("agent.toml");
        let text = toml::to_string(&config).map_err(|why| CliError::file(&config_path, why))?;
        files::write(&config_path, text.as_bytes())?;
        let arguments: Vec<OsString> = vec!["run".into(), "--config".into(), config_path.into()];
        let log = self.log(device.id.as_str());
        let process = Process::start(device.id.as_str(), &self.programs.join("fleet-agent"), &arguments, &log)?;
        self.devices.push(Device {
            process: Some(process),
            ..device
        });
        Ok(())
    }

    pub(crate) fn remounted(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter().filter(|device| !device.is_control)
    }

    pub(crate) fn device(&self, id: &DeviceId) -> Option<&Device> {
        self.devices.iter().find(|device| device.id == *id)
    }

    /// Looks again and again until there is an answer, the time is up, or a process is gone.
    pub(crate) async fn until<T>(
        &mut self,
        what: &str,
        patience: Duration,
        mut look: impl AsyncFnMut(&Self) -> Result<Option<T>, CliError>,
    ) -> Result<T, CliError> {
        let deadline = Instant::now() + patience;
        let mut pace = tokio::time::interval(LOOK);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            pace.tick().await;
            let found = tokio::time::timeout_at(deadline, look(self)).await;
            match found {
                Ok(Ok(Some(found))) => return Ok(found),
                Ok(Ok(None)) => {}
                Ok(Err(why)) => {
                    // If a process is gone, that is the reason worth telling.
                    self.check()?;
                    return Err(why);
                }
                Err(_elapsed) => return Err(self.late(what, patience)),
            }
            self.check()?;
            if Instant::now() >= deadline {
                return Err(self.late(what, patience));
            }
        }
    }

    fn check(&mut self) -> Result<(), CliError> {
        let devices = self.devices.iter_mut().filter_map(|device| device.process.as_mut());
        self.server.iter_mut().chain(devices).try_for_each(Process::check)
    }

    fn late(&self, what: &str, patience: Duration) -> CliError {
        let devices = self.devices.iter().filter_map(|device| device.process.as_ref());
        let tails: Vec<String> = self.server.iter().chain(devices).map(Process::tail).collect();
        CliError::Failed(format!(
            "{what}: not after {} s\n{}",
            patience.as_secs(),
            tails.join("\n")
        ))
    }

    /// Ends every process: devices first, so that they say goodbye to a server that is there.
    pub(crate) async fn stop(&mut self) -> Vec<String> {
        let mut devices: Vec<Process> = self
            .devices
            .iter_mut()
            .filter_map(|device| device.process.take())
            .collect();
        let mut complaints = stop_all(&mut devices).await;
        complaints.extend(stop_all(self.server.take().as_mut_slice()).await);
        complaints
    }
}

impl Device {
    pub(crate) fn sensor(&self) -> PathBuf {
        self.folder.join("sensor.csv")
    }

    /// Where it answers, once it does.
    pub(crate) fn rest(&self) -> Option<String> {
        let text = fs::read_to_string(self.folder.join("data/rest.addr")).ok()?;
        let address = text.trim();
        (!address.is_empty()).then(|| format!("http://{address}"))
    }
}

/// Stops processes at the same time. Returns what was not as it should be.
async fn stop_all(processes: &mut [Process]) -> Vec<String> {
    let stopped = join_all(
        processes
            .iter_mut()
            .map(async |process| match process.stop(STOP).await {
                Ok(true) => None,
                Ok(false) => Some(format!("{} did not stop cleanly", process.name())),
                Err(why) => Some(why.to_string()),
            }),
    );
    stopped.await.into_iter().flatten().collect()
}

/// Whoever can read it can enrol a device.
fn write_bundle(path: &Path, bundle: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_vec_pretty(bundle).map_err(|why| CliError::file(path, why))?;
    files::write_new_secret(path, &text)
}

/// Takes the demo's folder for this demo alone; the kernel lets go of it with the process.
fn take(folder: &Path) -> Result<File, CliError> {
    let path = folder.join(MARKER);
    let file = File::options().read(true).append(true).create(true).open(&path);
    let file = file.map_err(|why| CliError::file(&path, why))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(CliError::file(
            folder,
            "a demo is running there: stop it, or name another with --dir",
        )),
        Err(why) => Err(CliError::file(&path, why)),
    }
}

/// A listener on the preferred port of loopback, or on any free one.
fn free_port(preferred: u16) -> Result<TcpListener, CliError> {
    TcpListener::bind(("127.0.0.1", preferred))
        .or_else(|_taken| TcpListener::bind(("127.0.0.1", 0)))
        .map_err(|why| CliError::Failed(format!("no port is free: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::GlobalArgs;

    fn programs(dir: &Path) -> PathBuf {
        for program in ["fleet-server", "fleet-agent"] {
            std::fs::write(dir.join(program), "").unwrap();
        }
        dir.to_owned()
    }

    #[test]
    fn only_a_demos_folder_is_ever_removed() {
        let dir = tempfile::tempdir().unwrap();
        let programs = programs(dir.path());
        let folder = dir.path().join("precious");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("thesis.txt"), "ten years").unwrap();
        assert!(Fleet::prepare(&folder, &programs).is_err());
        assert!(folder.join("thesis.txt").exists());

        let folder = dir.path().join("demo-run");
        let running = Fleet::prepare(&folder, &programs).unwrap();
        std::fs::write(folder.join("old.txt"), "").unwrap();
        let refused = Fleet::prepare(&folder, &programs).unwrap_err().to_string();
        assert!(refused.contains("is running there"), "{refused}");
        drop(running);
        Fleet::prepare(&folder, &programs).unwrap();
        assert!(!folder.join("old.txt").exists() && folder.join("logs").is_dir());
    }

    #[test]
    fn the_profile_leads_to_the_demos_server_whatever_its_port() {
        let dir = tempfile::tempdir().unwrap();
        let mut fleet = Fleet::prepare(&dir.path().join("demo-run"), &programs(dir.path())).unwrap();
        fleet.api = "http://127.0.0.1:4711".to_owned();
        files::write(&fleet.token_file(), b"secret\n").unwrap();
        fleet.write_profile().unwrap();
        let global = GlobalArgs {
            server: None,
            token: None,
            token_file: None,
            ca: None,
            profile: Some(fleet.profile()),
            json: false,
        };
        let connection = global.connection(false).unwrap();
        assert_eq!(
            (connection.server.as_str(), connection.token.as_deref()),
            (fleet.api.as_str(), Some("secret"))
        );
    }

    #[test]
    fn a_factory_bundle_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("factory.json");
        write_bundle(&path, &serde_json::json!({"token": "secret"})).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let read: serde_json::Value = files::read_json(&path).unwrap();
        assert_eq!(read["token"], "secret");
    }

    #[test]
    fn missing_programs_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = Fleet::prepare(&dir.path().join("run"), dir.path())
            .unwrap_err()
            .to_string();
        assert!(error.contains("fleet-server") && error.contains("--bin-dir"), "{error}");
    }

    #[test]
    fn a_taken_port_is_replaced() {
        let first = free_port(0).unwrap();
        let taken = first.local_addr().unwrap().port();
        let second = free_port(taken).unwrap();
        assert_ne!(second.local_addr().unwrap().port(), taken);
    }
}
