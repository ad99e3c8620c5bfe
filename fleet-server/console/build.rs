//! Builds the web console in `web/` with npm and writes a table of its files, embedded with their compressed forms. Uses
//! the standard library alone; compressing is done by the npm build. Writes nothing into the source tree except
//! `web/node_modules`, which git ignores.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the build of the console depends on.
const INPUTS: [&str; 10] = [
    "src",
    "public",
    "index.html",
    "package.json",
    "package-lock.json",
    ".npmrc",
    "tsconfig.json",
    "vite.config.ts",
    "scripts/precompress.mjs",
    "scripts/licenses.mjs",
];

/// `FLOTILLA_CONSOLE=off` embeds this page instead. A stated choice, never what happens when npm fails.
const PLACEHOLDER: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Flotilla</title>\
    <h1>Built without the console</h1><p>This server was compiled with FLOTILLA_CONSOLE=off. Its API is at /api/v1, \
    documented at /docs; fleetctl does all that the console does.</p></html>\n";

/// Cargo prints the error of `main` with `Debug`: npm's words stay readable.
struct Failure(String);

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn main() -> Result<(), Failure> {
    let web = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("web");
    let out = PathBuf::from(variable("OUT_DIR")?);
    let dist = out.join("console");
    tell(&web)?;
    if dist.exists() {
        fs::remove_dir_all(&dist).map_err(|why| failed("remove", &dist, &why))?;
    }
    fs::create_dir_all(&dist).map_err(|why| failed("make", &dist, &why))?;
    match variable("FLOTILLA_CONSOLE").as_deref() {
        Ok("off") => {
            let page = dist.join("index.html");
            fs::write(&page, PLACEHOLDER).map_err(|why| failed("write", &page, &why))?;
        }
        Ok(other) => {
            return Err(Failure(format!(
                "FLOTILLA_CONSOLE is '{other}': only 'off' means something"
            )));
        }
        Err(_unset) => build(&web, &dist)?,
    }
    write_table(&dist, &out.join("assets.rs"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "cargo speaks to build scripts through the environment"
)]
fn variable(name: &str) -> Result<String, Failure> {
    std::env::var(name).map_err(|why| Failure(format!("environment variable {name}: {why}")))
}

fn failed(what: &str, path: &Path, why: &io::Error) -> Failure {
    Failure(format!("cannot {what} {}: {why}", path.display()))
}

/// Tells cargo when to run again.
fn tell(web: &Path) -> Result<(), Failure> {
    let changed = INPUTS.map(|input| format!("cargo::rerun-if-changed={}\n", web.join(input).display()));
    let fixed = "cargo::rerun-if-env-changed=FLOTILLA_CONSOLE\ncargo::rerun-if-changed=build.rs\n";
    io::stdout()
        .write_all(format!("{fixed}{}", changed.concat()).as_bytes())
        .map_err(|why| Failure(format!("cannot speak to cargo: {why}")))
}

fn build(web: &Path, dist: &Path) -> Result<(), Failure> {
    let lock = web.join("package-lock.json");
    let modules = web.join("node_modules");
    let stamp = modules.join(".flotilla-lock");
    // Two target folders may build at once, but they share `node_modules`.
    let guard_path = web.join(".install.lock");
    let guard = File::create(&guard_path).map_err(|why| failed("make", &guard_path, &why))?;
    guard.lock().map_err(|why| failed("lock", &guard_path, &why))?;
    let wanted = fs::read(&lock).map_err(|why| failed("read", &lock, &why))?;
    let installed = fs::read(&stamp).unwrap_or_default();
    if installed != wanted {
        npm(web, dist, &["ci", "--no-audit", "--no-fund"])?;
        fs::write(&stamp, &wanted).map_err(|why| failed("write", &stamp, &why))?;
    }
    npm(web, dist, &["run", "--silent", "build"])
}

fn npm(web: &Path, dist: &Path, arguments: &[&str]) -> Result<(), Failure> {
    let command = format!("npm {}", arguments.join(" "));
    let output = Command::new("npm")
        .args(arguments)
        .current_dir(web)
        .env("CONSOLE_OUT", dist)
        .output()
        .map_err(|why| {
            Failure(format!(
                "'{command}' cannot run: {why}. The console needs Node 20.19 or newer with npm; FLOTILLA_CONSOLE=off builds \
                 the server without it"
            ))
        })?;
    if output.status.success() {
        return Ok(());
    }
    Err(Failure(format!(
        "'{command}' in {} failed ({}):\n{}{}",
        web.display(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )))
}

/// One `Asset` per file, in order of path, so that finding one is a binary search.
fn write_table(dist: &Path, table: &Path) -> Result<(), Failure> {
    let mut files = Vec::new();
    collect(dist, &mut files)?;
    let mut assets = Vec::new();
    for file in &files {
        let Ok(relative) = file.strip_prefix(dist) else {
            continue;
        };
        let path = format!("/{}", relative.display());
        let packed = file
            .extension()
            .is_some_and(|extension| extension == "br" || extension == "gz");
        if packed || path.starts_with("/.vite/") {
            continue;
        }
        assets.push((path, file));
    }
    assets.sort();
    let mut entries = Vec::new();
    for (path, file) in assets {
        let file = file.display().to_string();
        let packed = |suffix: &str| {
            let beside = format!("{file}{suffix}");
            if Path::new(&beside).exists() {
                format!("Some(include_bytes!({beside:?}))")
            } else {
                "None".to_owned()
            }
        };
        entries.push(format!(
            "    Asset {{ path: {path:?}, bytes: include_bytes!({file:?}), brotli: {}, gzip: {}, content_type: {:?}, \
             immutable: {} }},\n",
            packed(".br"),
            packed(".gz"),
            content_type(&path)?,
            path.starts_with("/assets/")
        ));
    }
    fs::write(table, format!("&[\n{}]\n", entries.concat())).map_err(|why| failed("write", table, &why))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    for entry in fs::read_dir(folder).map_err(|why| failed("list", folder, &why))? {
        let path = entry.map_err(|why| failed("list", folder, &why))?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

fn content_type(path: &str) -> Result<&'static str, Failure> {
    let extension = path.rsplit('.').next().unwrap_or_default();
    Ok(match extension {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "woff2" => "font/woff2",
        "json" => "application/json",
        "txt" => "text/plain; charset=utf-8",
        other => {
            return Err(Failure(format!(
                "{path}: build.rs knows no content type for '.{other}'"
            )));
        }
    })
}
