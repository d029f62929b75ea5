//! Servers that others have written, on sockets that are held for them, as docs/sockets.md and examples/sockets
//! have it: each is killed again and again under load.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::json;
use support::tools::tool;
use support::{Agent, DEADLINE, debian, eventually, rest, rig, signal_to, skip};

use crate::sockets::{Clients, free};

const CLIENTS: usize = 3;

/// Kills a server that serves at this address, and has its clients go on. `keys`: of its service file, beside
/// `listen`.
fn survives(server: &str, address: SocketAddr, keys: &str) {
    let web =
        format!("{keys}\nlisten = [{{ tcp = \"{address}\" }}]\nrestart_max_delay = \"100ms\"\n");
    let agent = Agent::start(&[("web", &web)]);
    let clients = Clients::of(address, CLIENTS);
    clients.go_on();
    let kills = if rig::is_soak() { 50 } else { 6 };
    for _ in 0..kills {
        let pid = agent.running("web");
        signal_to(pid, Signal::SIGKILL);
        agent.replaced("web", pid);
        clients.go_on();
        rest();
    }
    let load = clients.end();
    rig::report(&format!("{server}, {kills} kills: {}", load.words()));
    load.assert_held(CLIENTS, kills);
}

fn command(words: &[String]) -> String {
    format!("command = {}", json!(words))
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The first block of that language in the documentation, behind these words.
fn documented(after: &str, language: &str) -> String {
    let page = fs::read_to_string(repository().join("docs/sockets.md")).unwrap();
    let (_, rest) = page.split_once(after).unwrap();
    let (_, block) = rest.split_once(&format!("```{language}\n")).unwrap();
    block.split_once("```").unwrap().0.to_owned()
}

/// Where a program is on this host.
fn on_host(name: &str) -> Option<String> {
    let command = tool(name, name)?;
    let is_of_host = command.get_envs().next().is_none();
    is_of_host.then(|| command.get_program().to_str().unwrap().to_owned())
}

/// How a program of Debian's is run: that of the host, or that of the tests' root.
fn of_debian(test: &str, path: &str) -> Option<Vec<String>> {
    let name = path.rsplit('/').next().unwrap();
    if let Some(program) = on_host(name) {
        return Some(vec![program]);
    }
    let root = debian::root(test)?;
    let arch = std::env::consts::ARCH;
    let loader = match arch {
        "x86_64" => "ld-linux-x86-64.so.2",
        _ => "ld-linux-aarch64.so.1",
    };
    let libraries = root.join(format!("usr/lib/{arch}-linux-gnu"));
    let paths = [libraries.join(loader), libraries, root.join(path)];
    let [loader, libraries, program] = paths.map(|path| path.to_str().unwrap().to_owned());
    Some(vec![
        loader,
        "--library-path".to_owned(),
        libraries,
        program,
    ])
}

#[test]
fn a_server_in_rust() {
    let Some(rustc) = on_host("rustc") else {
        return skip("a_server_in_rust", "there is no rustc");
    };
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("web");
    let source = repository().join("examples/sockets/server.rs");
    let mut rustc = Command::new(rustc);
    rustc.args(["--edition", "2024", "-O", "-D", "warnings", "-o"]);
    let output = rustc.arg(&program).arg(source).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let program = program.to_str().unwrap();
    survives("Rust", free(), &command(&words([program])));
}

#[test]
fn node() {
    let Some(node) = on_host("node") else {
        return skip("node", "there is no Node");
    };
    let listen = documented("**Node**", "js");
    let script = format!(
        "const http = require('http'); const handler = (request, answer) => answer.end('ok'); {listen}"
    );
    survives("Node", free(), &command(&words([&node, "-e", &script])));
}

#[test]
fn python() {
    let Some(python) = on_host("python3") else {
        return skip("python", "there is no Python");
    };
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("index.html"), "ok").unwrap();
    let script = documented("**Python's `http.server`**", "python");
    let keys = format!("working_directory = {:?}", dir.path());
    let command = command(&words([&python, "-c", &script]));
    survives(
        "Python's http.server",
        free(),
        &format!("{command}\n{keys}"),
    );
}

#[test]
fn gunicorn() {
    let Some(gunicorn) = on_host("gunicorn") else {
        return skip("gunicorn", "there is no gunicorn");
    };
    let dir = tempfile::tempdir().unwrap();
    let app = "def app(environ, start):\n    start('200 OK', [('Content-Length', '2')])\n    return [b'ok']\n";
    fs::write(dir.path().join("app.py"), app).unwrap();
    let keys = format!("working_directory = {:?}", dir.path());
    let command = command(&words([&gunicorn, "--workers", "2", "app:app"]));
    survives("gunicorn", free(), &format!("{command}\n{keys}"));
}

#[test]
fn nginx() {
    let Some(mut nginx) = of_debian("nginx", "usr/sbin/nginx") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let address = free();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let ways = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let places = ways.map(|way| format!("{way}_temp_path {};\n", at(way)));
    let config = format!(
        "user root;\npid {};\nevents {{}}\nhttp {{\naccess_log off;\n{}server {{\nlisten {address};\nreturn 200 ok;\n}}\n}}\n",
        at("pid"),
        places.concat()
    );
    fs::write(at("nginx.conf"), config).unwrap();
    nginx.extend(words([
        "-e",
        &at("error.log"),
        "-c",
        &at("nginx.conf"),
        "-g",
        "daemon off;",
    ]));
    let keys = documented("**nginx**", "toml");
    let environment = keys
        .lines()
        .find_map(|it| it.strip_prefix("environment = { "));
    let environment = environment.unwrap().strip_suffix(" }").unwrap();
    let keys = format!("{}\nenvironment.{environment}", command(&nginx));
    survives("nginx", address, &keys);
}

/// It takes no sockets, and has one of its own: what it has answered is there again after a kill.
#[test]
fn redis_with_a_unix_socket_of_its_own() {
    const NAME: &str = "redis_with_a_unix_socket_of_its_own";
    let Some(mut redis) = of_debian(NAME, "usr/bin/redis-server") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let socket = at("redis.sock");
    let keys = documented("**Redis**", "toml");
    let keys = keys
        .replace("/run/redis/redis.sock", &socket)
        .replace("/var/lib/redis", &at(""));
    let written = keys.lines().find_map(|it| it.strip_prefix("command = "));
    let written: Vec<String> = serde_json::from_str(written.unwrap()).unwrap();
    redis.extend(written.into_iter().skip(1));
    let ready = keys.lines().find(|it| it.starts_with("ready")).unwrap();
    let agent = Agent::start(&[("redis", &format!("{}\n{ready}\n", command(&redis)))]);
    let ask = |request: &str| {
        let mut stream = UnixStream::connect(&socket).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(format!("{request}\r\n").as_bytes()).ok()?;
        let mut lines = BufReader::new(stream).lines();
        let first = lines.next()?.ok()?;
        match first.get(..1)? {
            "$" => lines.next()?.ok(),
            // While it loads what it has written down.
            "-" if first.starts_with("-LOADING") => None,
            _ => Some(first),
        }
    };
    let mut pid = agent.running("redis");
    for round in 0..5 {
        assert_eq!(ask(&format!("SET key {round}")).as_deref(), Some("+OK"));
        signal_to(pid, Signal::SIGKILL);
        pid = agent.replaced("redis", pid);
        let value = eventually("an answer", || ask("GET key"));
        assert_eq!(value, round.to_string());
        rest();
    }
}
