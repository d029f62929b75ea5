//! One look, with a deadline.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use tokio::net::{TcpStream, UnixStream};
use tokio::process::Command;

use crate::config::probes::server;
use crate::model::{Cause, Probe};

/// Whether it shows that the service works.
///
/// # Errors
/// Why not.
pub(super) async fn at(probe: &Probe, timeout: Duration) -> Result<()> {
    let look = async {
        match probe {
            Probe::Tcp(address) => TcpStream::connect(address).await.map(drop)?,
            Probe::Unix(path) => unix(path).await?,
            Probe::Http(url) => http(url).await?,
            Probe::File(path) => std::fs::metadata(path).map(|_| ())?,
            Probe::Command { program, arguments } => command(program, arguments).await?,
        }
        Ok(())
    };
    let looked = tokio::time::timeout(timeout, look).await;
    looked.unwrap_or_else(|_| Err(anyhow!("no answer within {timeout:?}")))
}

/// "tcp 127.0.0.1:80"
pub(super) fn name(probe: &Probe) -> String {
    match probe {
        Probe::Tcp(address) => format!("tcp {address}"),
        Probe::Unix(path) => format!("unix {}", path.display()),
        Probe::Http(url) => url.clone(),
        Probe::File(path) => format!("file {}", path.display()),
        Probe::Command { program, .. } => program.display().to_string(),
    }
}

async fn unix(path: &Path) -> io::Result<()> {
    match UnixStream::connect(path).await {
        // A socket of another type, which somebody has open: else it would refuse (`unix_find_bsd`,
        // net/unix/af_unix.c).
        Err(error) if error.raw_os_error() == Some(libc::EPROTOTYPE) => Ok(()),
        connected => connected.map(drop),
    }
}

/// Follows no redirect, and reads no more than the head of the answer.
async fn http(url: &str) -> Result<()> {
    let url: Uri = url.parse()?;
    let (Some(address), Some(host)) = (server(&url), url.authority()) else {
        bail!("not a URL of this host");
    };
    let stream = TokioIo::new(TcpStream::connect(address).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    let connection = tokio::spawn(connection);
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(HOST, host.as_str())
        .header(USER_AGENT, concat!("respawn/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await;
    connection.abort();
    let status = answer?.status();
    match status.as_u16() {
        200..=399 => Ok(()),
        _ => bail!("status {status}"),
    }
}

/// It and what it has started are killed when its time is over. They are in this process's group: the agent
/// kills that.
async fn command(program: &Path, arguments: &[String]) -> Result<()> {
    let mut command = Command::new(program);
    command
        .args(arguments.iter().skip(1))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Some(name) = arguments.first() {
        command.arg0(name);
    }
    let mut child = command.spawn()?;
    let _started = Started;
    let status = child.wait().await?;
    if status.success() {
        return Ok(());
    }
    let status = std::os::unix::process::ExitStatusExt::into_raw(status);
    bail!("{}", Cause::from_wait_status(status))
}

/// All that this process has started: killed when this goes.
pub(super) struct Started;

impl Drop for Started {
    fn drop(&mut self) {
        // What a child leaves behind becomes a child of this process, which is the reaper of orphans.
        for _ in 0..MOST_GENERATIONS {
            let children = children();
            if children.is_empty() {
                return;
            }
            for child in children {
                let _ = kill(child, Signal::SIGKILL);
                let _ = waitpid(child, None);
            }
        }
    }
}

/// How often is looked for what the killed have left behind.
const MOST_GENERATIONS: u32 = 1000;

/// Those of this process.
pub(super) fn children() -> Vec<Pid> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let files = tasks.flatten().map(|task| task.path().join("children"));
    // Each pid has a blank behind it.
    let pids: String = files
        .filter_map(|it| std::fs::read_to_string(it).ok())
        .collect();
    let pids = pids.split_ascii_whitespace();
    pids.filter_map(|pid| Some(Pid::from_raw(pid.parse().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::os::unix::net::{UnixDatagram, UnixListener};
    use std::thread;

    use super::*;
    use crate::os::testing::alone;

    async fn look(probe: &Probe) -> Result<(), String> {
        let looked = at(probe, Duration::from_secs(10)).await;
        looked.map_err(|error| format!("{error:#}"))
    }

    #[tokio::test]
    async fn a_port_that_is_listened_on_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let probe = Probe::Tcp(listener.local_addr().unwrap());
        assert_eq!(look(&probe).await, Ok(()));
        drop(listener);
        assert!(look(&probe).await.unwrap_err().contains("refused"));
    }

    #[tokio::test]
    async fn a_socket_that_somebody_has_open_answers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let probe = Probe::Unix(path.clone());
        assert!(look(&probe).await.unwrap_err().contains("No such file"));
        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(look(&probe).await, Ok(()));
        drop(listener);
        assert!(look(&probe).await.unwrap_err().contains("refused"));
        std::fs::remove_file(&path).unwrap();
        let _socket = UnixDatagram::bind(&path).unwrap();
        assert_eq!(look(&probe).await, Ok(()));
    }

    #[tokio::test]
    async fn a_file_is_there_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ready");
        let probe = Probe::File(path.clone());
        assert!(look(&probe).await.is_err());
        std::fs::write(path, "").unwrap();
        assert_eq!(look(&probe).await, Ok(()));
    }

    #[tokio::test]
    async fn a_command_is_judged_by_its_exit_status() {
        // It kills all children of its process.
        if !alone("prober::look::tests::a_command_is_judged_by_its_exit_status") {
            return;
        }
        let shell = |script: &str| Probe::Command {
            program: "/bin/sh".into(),
            arguments: ["sh", "-c", script].map(str::to_owned).to_vec(),
        };
        assert_eq!(look(&shell("exit 0")).await, Ok(()));
        let error = look(&shell("exit 3")).await.unwrap_err();
        assert_eq!(error, "exited with 3");
    }

    /// Answers one request after the other with these.
    fn serve(answers: Vec<&'static str>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 1000];
                let length = stream.read(&mut request).unwrap();
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                assert!(
                    request.starts_with("GET /health?a=b HTTP/1.1\r\n"),
                    "{request}"
                );
                assert!(
                    request.contains(&format!("host: {address}\r\n")),
                    "{request}"
                );
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        format!("http://{address}/health?a=b")
    }

    #[tokio::test]
    async fn a_server_is_judged_by_its_status() {
        let url = serve(vec![
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 302 Found\r\nlocation: http://192.0.2.1/\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
            "nonsense\r\n\r\n",
            "",
        ]);
        let probe = Probe::Http(url);
        assert_eq!(look(&probe).await, Ok(()));
        assert_eq!(look(&probe).await, Ok(()));
        let error = look(&probe).await.unwrap_err();
        assert_eq!(error, "status 503 Service Unavailable");
        assert!(look(&probe).await.is_err());
        assert!(look(&probe).await.is_err());
    }
}
