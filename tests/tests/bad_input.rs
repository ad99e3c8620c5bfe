//! What users get wrong: each gets a clear error where they look, an audit event where it is a security matter, and
//! nothing that was there is lost.

use anyhow::Context as _;
use flotilla_tests::agent::PATIENCE;
use flotilla_tests::model::{LINE, csv, dataset, rows};
use flotilla_tests::process::{eventually, http, program};
use flotilla_tests::{Agent, Fleet, Server};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

async fn server() -> anyhow::Result<(Server, tempfile::TempDir)> {
    let dir = tempfile::tempdir()?;
    Ok((Server::start(dir.path()).await?, dir))
}

fn detail(problem: &Value) -> String {
    format!("{} {}", problem["detail"], problem["errors"])
}

#[tokio::test]
async fn imports_are_whole_or_nothing() -> anyhow::Result<()> {
    let (server, _dir) = server().await?;
    let dataset = server.post("/api/v1/datasets", dataset("rows")).await?;
    let path = format!("/api/v1/datasets/{}/imports", dataset["id"].as_str().context("id")?);
    let import = async |body: String| {
        server
            .raw(
                server
                    .request(Method::POST, &path)
                    .header("content-type", "text/csv")
                    .body(body),
            )
            .await
    };
    let good = csv(&rows(40));
    let refused = [
        ("NaN", good.replacen("cold", "cold\nNaN,1,2,3,cold", 1), "line 3"),
        ("a word", good.replacen("cold", "cold\n1,2,three,4,cold", 1), "three"),
        ("too few columns", good.replacen("cold", "cold\n1,2", 1), "line 3"),
        ("nothing", String::new(), "empty"),
        ("a header alone", "a,b,c,d,truth\n".to_owned(), ""),
    ];
    for (what, body, named) in refused {
        let (status, problem) = import(body).await?;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{what}: {problem}");
        assert!(
            detail(&problem).contains(named),
            "{what} must name '{named}': {problem}"
        );
    }
    let count = async || {
        server
            .get(&format!("/api/v1/datasets/{}", dataset["id"].as_str().unwrap()))
            .await
    };
    assert_eq!(count().await?["samples"], 0, "a refused import leaves nothing");

    let (status, report) = import(good.clone()).await?;
    assert!(status.is_success(), "{report}");
    assert_eq!(report["samples"], 40);
    let (status, problem) = import(good.replace("a,b,c,d", "a,b,c,e")).await?;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "other columns: {problem}");
    assert!(
        detail(&problem).contains('d') || detail(&problem).contains('e'),
        "{problem}"
    );
    let (_, again) = import(good).await?;
    assert_eq!(again["duplicates"], 40, "the same file again adds nothing");
    assert_eq!(count().await?["samples"], 40);
    Ok(())
}

#[tokio::test]
async fn one_class_bad_labels_and_bad_expressions_are_refused() -> anyhow::Result<()> {
    let (server, _dir) = server().await?;
    let dataset = server.post("/api/v1/datasets", dataset("rows")).await?;
    let base = format!("/api/v1/datasets/{}", dataset["id"].as_str().context("id")?);
    server.post_csv(&format!("{base}/imports"), csv(&rows(40))).await?;
    let page = server.get(&format!("{base}/samples?limit=1000")).await?;
    let samples = page["items"].as_array().context("items")?;
    let all_cold: Vec<Value> = samples
        .iter()
        .map(|sample| json!({"sample": sample["digest"], "label": "cold"}))
        .collect();

    let post = |path: &str, body: Value| server.request(Method::POST, &format!("{base}/{path}")).json(&body);
    let mut unknown = all_cold.clone();
    unknown.push(json!({"sample": samples[0]["digest"], "label": "lukewarm"}));
    let (status, problem) = server.raw(post("annotations", json!({"annotations": unknown}))).await?;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    assert!(detail(&problem).contains("lukewarm"), "{problem}");
    assert_eq!(server.get(&base).await?["hand_labels"], 0, "all or none");

    server
        .post(&format!("{base}/annotations"), json!({"annotations": all_cold}))
        .await?;
    let (status, problem) = server.raw(post("versions", json!({}))).await?;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    assert!(detail(&problem).contains("one class"), "{problem}");

    let long = vec!["true"; 20_000].join(" && ");
    for (when, named) in [
        ("f[\"aa\"] > 1.0", "aa"),
        ("f[\"a\"] >", ""),
        ("f[\"a\"]", "true or false"),
        (&long, "at most"),
    ] {
        let body = json!({"name": "x", "when": when, "label": "hot"});
        let (status, problem) = server.raw(post("labeling-functions", body)).await?;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{when:.40}: {problem}");
        assert!(detail(&problem).contains(named), "{problem}");
    }
    Ok(())
}

#[tokio::test]
async fn corrupt_models_are_refused() -> anyhow::Result<()> {
    let (server, _dir) = server().await?;
    let version = server.labelled_version().await?;
    let model = server.package(&version, "1.0.0", 1, &[8]).await?;
    let path = format!("/api/v1/models/{LINE}/imports?semver=2.0.0&dataset_version={version}");
    for (what, bytes) in [
        ("noise", vec![0xffu8; 1000]),
        ("nothing", Vec::new()),
        ("text", b"not a model".to_vec()),
    ] {
        let request = server
            .request(Method::POST, &path)
            .header("content-type", "application/octet-stream")
            .body(bytes);
        let (status, problem) = server.raw(request).await?;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{what}: {problem}");
        assert!(
            problem["detail"].as_str().is_some_and(|detail| detail.len() > 10),
            "{problem}"
        );
    }
    let versions = server.get(&format!("/api/v1/models/{LINE}/versions")).await?;
    assert_eq!(
        versions["items"].as_array().map(Vec::len),
        Some(1),
        "only {} is there",
        model["semver"]
    );
    Ok(())
}

#[tokio::test]
async fn unknown_configuration_keys_are_named() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut server = Server::start(dir.path()).await?;
    server.stop().await?;
    let config = server.dir().join("fleet.toml");
    let text = std::fs::read_to_string(&config)?;
    std::fs::write(&config, format!("colour = \"red\"\n{text}"))?;
    let refused = std::process::Command::new(program("fleet-server")?)
        .arg("serve")
        .arg("--config")
        .arg(&config)
        .output()?;
    assert!(!refused.status.success());
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        message.contains("colour") && message.contains("fleet.toml"),
        "{message}"
    );

    let config = dir.path().join("agent.toml");
    std::fs::write(&config, "data_dir = \"x\"\nflavour = 1\n")?;
    let refused = std::process::Command::new(program("fleet-agent")?)
        .arg("run")
        .arg("--config")
        .arg(&config)
        .output()?;
    assert!(!refused.status.success());
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(message.contains("flavour"), "{message}");
    Ok(())
}

#[tokio::test]
async fn a_fleet_is_never_overwritten() -> anyhow::Result<()> {
    let (mut server, dir) = server().await?;
    server.stop().await?;
    let before = std::fs::read(server.database())?;
    let again = std::process::Command::new(program("fleet-server")?)
        .arg("init")
        .arg("--dir")
        .arg(server.dir())
        .arg("--offline-keys")
        .arg(dir.path().join("other-keys"))
        .output()?;
    assert!(!again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains("exists already"));
    assert_eq!(std::fs::read(server.database())?, before);
    assert!(!dir.path().join("other-keys").exists());
    Ok(())
}

/// Starts an agent that must not get in; returns what it said.
async fn refused(agent: &mut Agent) -> anyhow::Result<String> {
    let outcome = agent.start().await;
    let error = outcome.err().context("the device must not enrol")?;
    Ok(format!("{error:#}"))
}

#[tokio::test]
async fn wrong_and_used_claim_tokens_are_refused_and_audited() -> anyhow::Result<()> {
    let fleet = Fleet::start(0).await?;
    let bundle = fleet.factory_bundle(1).await?;
    let mut first = Agent::new(fleet.dir(), "first", &bundle)?;
    first.start().await?;
    let mut second = Agent::new(fleet.dir(), "second", &bundle)?;
    let said = refused(&mut second).await?;
    assert!(said.contains("used"), "{said}");

    let mut wrong = bundle.clone();
    wrong["claim_token"] = json!("flt_0000000000000000000000000000000000000000000000000000000000000000");
    let mut third = Agent::new(fleet.dir(), "third", &wrong)?;
    let said = refused(&mut third).await?;
    assert!(said.to_lowercase().contains("token"), "{said}");

    let devices = fleet.server.get("/api/v1/devices").await?;
    assert_eq!(devices["items"].as_array().map(Vec::len), Some(1), "{devices}");
    let events = fleet.server.get("/api/v1/audit?event=enrolment.refused").await?;
    assert!(
        events["items"].as_array().is_some_and(|items| items.len() >= 2),
        "{events}"
    );
    Ok(())
}

/// Asks without a token and with a wrong one.
async fn strangers_get(http: &reqwest::Client, method: &Method, url: &str, expected: StatusCode) -> anyhow::Result<()> {
    for token in [None, Some("flt_wrong")] {
        let request = http.request(method.clone(), url);
        let request = token.map_or(request.try_clone().context("a bodyless request")?, |token| {
            request.bearer_auth(token)
        });
        let status = request.send().await?.status();
        anyhow::ensure!(status == expected, "{method} {url} with token {token:?}: {status}");
    }
    Ok(())
}

#[tokio::test]
async fn nothing_is_open_but_probes_the_sign_in_and_the_consoles_files() -> anyhow::Result<()> {
    let (server, _dir) = server().await?;
    let client = http();
    let document = server.get("/openapi.json").await?;
    let paths = document["paths"].as_object().context("paths")?;
    assert!(paths.len() > 20, "{} paths", paths.len());
    for (path, item) in paths {
        let open = matches!(path.as_str(), "/livez" | "/readyz");
        let expected = if open { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
        let url = format!("{}{}", server.api, path.replace(['{', '}'], ""));
        for method in item.as_object().context("item")?.keys() {
            // Where a sign-in link becomes a session: open, and of no use without a link's code.
            let signs_in = path == "/api/v1/session" && method == "post";
            let expected = if signs_in { StatusCode::BAD_REQUEST } else { expected };
            strangers_get(&client, &method.to_uppercase().parse()?, &url, expected).await?;
        }
    }
    for path in ["/metrics", "/openapi.json", "/docs", "/api/v1/nothing"] {
        let url = format!("{}{path}", server.api);
        strangers_get(&client, &Method::GET, &url, StatusCode::UNAUTHORIZED).await?;
    }
    // The console's page at every address of its own: it says nothing of the fleet.
    for path in ["/", "/devices", "/index.html"] {
        let url = format!("{}{path}", server.api);
        strangers_get(&client, &Method::GET, &url, StatusCode::OK).await?;
    }
    // A browser cannot send a bearer token: pages, and pages alone, take it as a password too.
    let with_password = |path: &str, password: &str| {
        client
            .get(format!("{}{path}", server.api))
            .basic_auth("me", Some(password))
    };
    let status = with_password("/docs", "flt_wrong").send().await?.status();
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let page = with_password("/docs", server.token())
        .send()
        .await?
        .error_for_status()?
        .text()
        .await?;
    assert!(page.contains("/api/v1/rollouts"), "the page lists the routes");
    let status = with_password("/api/v1/devices", server.token()).send().await?.status();
    assert_eq!(status, StatusCode::UNAUTHORIZED, "a password is for pages alone");
    // Whoever tries tokens leaves a trace, without filling the log: the rest is counted.
    let refused = eventually("wrong tokens on record", PATIENCE, async || {
        let events = server.get("/api/v1/audit?event=token.refused&limit=500").await?;
        let items = events["items"].as_array().cloned().unwrap_or_default();
        Ok((!items.is_empty()).then_some(items))
    })
    .await?;
    assert_eq!(refused[0]["subject"], "address:127.0.0.1", "{refused:?}");
    assert!(refused.len() < paths.len(), "{refused:?}");
    let refused = Value::Array(refused);
    assert!(!refused.to_string().contains("flt_wrong"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn the_link_that_the_server_prints_signs_in_once() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut server = Server::start(dir.path()).await?;
    assert_eq!(server.sign_in_link, None, "standard output is no terminal");
    server.stop().await?;
    server.serve_with(&["--sign-in-link"]).await?;
    let link = server.sign_in_link.clone().context("a link")?;
    let code = link.rsplit_once("/#/sign-in/").context("a code")?.1.to_owned();
    let sign_in = async || {
        let url = format!("{}/api/v1/session", server.api);
        http().post(url).json(&json!({ "code": code })).send().await
    };
    let first = sign_in().await?;
    assert_eq!(first.status(), StatusCode::OK);
    let cookie = first.headers()["set-cookie"].to_str()?.to_owned();
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"),
        "{cookie}"
    );
    assert_eq!(sign_in().await?.status(), StatusCode::UNAUTHORIZED, "once");
    let url = format!("{}/api/v1/devices", server.api);
    let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
    let seen = http().get(url).header("cookie", cookie).send().await?;
    assert_eq!(seen.status(), StatusCode::OK);
    Ok(())
}

#[test]
fn the_documented_agent_configuration_is_read() -> anyhow::Result<()> {
    let text = include_str!("../../docs/operations.md");
    let dir = tempfile::tempdir()?;
    let config = dir.path().join("agent.toml");
    let blocks = text
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next());
    let mut read = 0;
    for block in blocks.filter(|block| block.contains("hardware_class")) {
        std::fs::write(&config, block)?;
        let shown = std::process::Command::new(program("fleet-agent")?)
            .args(["run", "--print-config", "--config"])
            .arg(&config)
            .output()?;
        let said = String::from_utf8_lossy(&shown.stderr).into_owned();
        assert!(shown.status.success(), "{block}\n{said}");
        read += 1;
    }
    assert!(read > 0, "the documentation shows no agent.toml");
    Ok(())
}

#[tokio::test]
async fn two_servers_never_share_a_folder() -> anyhow::Result<()> {
    let (server, _dir) = server().await?;
    let uploaded = server.dir().join("data/uploads/under-way");
    std::fs::write(&uploaded, b"half a file")?;
    let second = std::process::Command::new(program("fleet-server")?)
        .args(["serve", "--config"])
        .arg(server.dir().join("fleet.toml"))
        .env("FLOTILLA_LISTEN_API", "127.0.0.1:0")
        .env("FLOTILLA_LISTEN_DEVICE_API", "127.0.0.1:0")
        .env("FLOTILLA_LISTEN_BROKER", "127.0.0.1:0")
        .output()?;
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success());
    assert!(said.contains("another fleet-server (process "), "{said}");
    assert!(uploaded.exists(), "nothing of the first server's is touched");
    assert_eq!(server.get("/api/v1/devices").await?["items"], json!([]));
    Ok(())
}

#[tokio::test]
async fn a_stop_waits_neither_for_long_polls_nor_for_imports() -> anyhow::Result<()> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let (mut server, _dir) = server().await?;
    let dataset = server.post("/api/v1/datasets", dataset("rows")).await?;
    let imports = format!("/api/v1/datasets/{}/imports", dataset["id"].as_str().context("id")?);
    let mut poll = tokio::task::JoinSet::new();
    poll.spawn(server.request(Method::GET, "/api/v1/drift?wait_ms=30000").send());
    // An import whose file never ends.
    let address = server.api.trim_start_matches("http://").to_owned();
    let mut upload = tokio::net::TcpStream::connect(&address).await?;
    let head = format!(
        "POST {imports} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\ncontent-type: text/csv\r\n\
         transfer-encoding: chunked\r\n\r\n6\r\na,b,c,\r\n",
        server.token()
    );
    upload.write_all(head.as_bytes()).await?;
    let running = async || {
        let page = server.get(&imports).await?;
        Ok(page["items"]
            .as_array()
            .is_some_and(|items| !items.is_empty())
            .then_some(()))
    };
    flotilla_tests::process::eventually("the import runs", std::time::Duration::from_secs(30), running).await?;

    let began = tokio::time::Instant::now();
    server.stop().await?;
    let took = began.elapsed();
    assert!(took < std::time::Duration::from_secs(10), "the stop took {took:?}");
    let answered = poll.join_next().await.context("the poll")???;
    assert_eq!(answered.status(), StatusCode::OK, "the poll answers what it knows");
    let mut answer = Vec::new();
    // The rest of a connection that was cut may be an error.
    drop(upload.read_to_end(&mut answer).await);
    let answer = String::from_utf8_lossy(&answer).to_lowercase();
    assert!(
        answer.starts_with("http/1.1 503") && answer.contains("retry-after"),
        "{answer}"
    );
    Ok(())
}

#[tokio::test]
async fn a_stop_is_over_at_its_deadline_whoever_holds_the_listeners() -> anyhow::Result<()> {
    use tokio::io::AsyncWriteExt as _;

    const DEADLINE_S: u64 = 2;
    let mut fleet = Fleet::start(1).await?;
    fleet.server.stop().await?;
    let config = fleet.server.dir().join("fleet.toml");
    let text = std::fs::read_to_string(&config)?;
    anyhow::ensure!(text.contains("stop_deadline_s = 10"), "{text}");
    let text = text.replace("stop_deadline_s = 10", &format!("stop_deadline_s = {DEADLINE_S}"));
    std::fs::write(&config, text)?;
    fleet.server.serve().await?;
    // A request that never ends, and handshakes that never begin.
    let mut held = Vec::new();
    for url in [&fleet.server.api, &fleet.server.device_api, &fleet.server.broker] {
        let (_, address) = url.split_once("://").context("an address")?;
        held.push(tokio::net::TcpStream::connect(address).await?);
    }
    held[0].write_all(b"GET / HTTP/1.1\r\nhost:").await?;

    let began = tokio::time::Instant::now();
    fleet.server.stop().await?;
    let took = began.elapsed();
    // To start and to end the process takes a moment, on a busy machine too.
    let most = std::time::Duration::from_secs(DEADLINE_S + 1);
    assert!(took < most, "the stop took {took:?}");
    drop(held);
    Ok(())
}

#[tokio::test]
async fn text_that_deceives_is_refused() -> anyhow::Result<()> {
    let (server, _dir) = server().await?;
    for name in ["a\u{1b}[2Kb", "a\u{202e}b", "a\nb"] {
        let mut wanted = dataset("rows");
        wanted["name"] = json!(name);
        let request = server.request(Method::POST, "/api/v1/datasets").json(&wanted);
        let (status, problem) = server.raw(request).await?;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
        assert!(detail(&problem).contains("U+"), "{problem}");
        assert!(!problem["detail"].as_str().unwrap_or_default().contains(name));
    }
    Ok(())
}
