//! Serves the numbers over HTTP, to monitoring systems and to nobody else's harm.
//!
//! What a client costs is bounded: so many connections, so many bytes, so much time for each of them; one
//! answer a connection. However often somebody asks, the numbers are looked up once a second at most.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::{Collector, Format};
use crate::clock;
use crate::control::listen_private;

/// Connections at once; for another one the oldest is closed.
const MOST_CONNECTIONS: usize = 64;

/// From the connection to the last byte of the answer that is taken.
const PATIENCE: Duration = Duration::from_secs(10);

/// From the connection to the end of the request.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);

/// The least that hyper takes.
const LONGEST_REQUEST: usize = 8192;

/// After a connection could not be accepted, for lack of descriptors above all.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// So old may an answer be.
const FRESH: Duration = Duration::from_secs(1);

/// So often is read on where nobody asks, so that no file is removed unread.
const READ_ON: Duration = Duration::from_secs(10);

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Ip(SocketAddr),
    /// Of a socket that its user alone can reach.
    Unix(PathBuf),
}

impl Address {
    /// Reads `127.0.0.1:9550`, `[::1]:9550`, `9550` (of this host alone) or a path.
    ///
    /// # Errors
    /// What was expected.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let path = text.strip_prefix("unix:").unwrap_or(text);
        if path.starts_with('/') {
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        if let Ok(port) = text.parse() {
            return Ok(Self::Ip((Ipv4Addr::LOCALHOST, port).into()));
        }
        text.parse().map(Self::Ip).map_err(|_| {
            "expected an address with a port such as \"127.0.0.1:9550\" or \"[::1]:9550\", a port of \
             this host alone such as \"9550\", or the path of a socket such as \"/run/metrics.sock\""
                .to_owned()
        })
    }

    /// The address, if others than this host can reach it.
    pub(crate) fn is_open(&self) -> bool {
        let is_loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
        matches!(self, Self::Ip(address) if !is_loopback(address.ip()))
    }
}

/// A listening socket; a Unix socket's file goes with it.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// To be called within the runtime.
    ///
    /// # Errors
    /// The address is taken, or not this host's; something else is in the socket's place.
    pub(crate) async fn bind(address: &Address) -> Result<Self> {
        match address {
            Address::Ip(address) => {
                let bound = TcpListener::bind(address).await;
                Ok(Self::Tcp(
                    bound.with_context(|| format!("cannot listen on {address}"))?,
                ))
            }
            Address::Unix(path) => {
                if std::os::unix::net::UnixStream::connect(path).is_ok() {
                    bail!(
                        "cannot listen on {}: another process serves there; end it, or choose another path",
                        path.display()
                    );
                }
                let bound = listen_private(path).and_then(|listener| {
                    listener.set_nonblocking(true)?;
                    Ok(UnixListener::from_std(listener)?)
                });
                let cannot = || format!("cannot listen on {}", path.display());
                Ok(Self::Unix(bound.with_context(cannot)?, path.clone()))
            }
        }
    }

    /// Where it listens: the port that was asked for, or the one that the kernel chose.
    pub(crate) fn place(&self) -> String {
        match self {
            Self::Tcp(listener) => listener.local_addr().map_or_else(
                |error| error.to_string(),
                |address| format!("http://{address}/metrics"),
            ),
            Self::Unix(_, path) => path.display().to_string(),
        }
    }

    async fn accept(&self, shared: &Arc<Shared>) -> std::io::Result<JoinHandle<()>> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(converse(stream, shared.clone()))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(converse(stream, shared.clone()))
            }
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            remove(path);
        }
    }
}

/// Who comes next replaces it, if it cannot be removed.
fn remove(path: &Path) {
    let _ = std::fs::remove_file(path);
}

/// What the connections have in common.
struct Shared {
    collector: Mutex<Collector>,
    /// The last answers, and when each was made.
    last: [tokio::sync::Mutex<Option<(Duration, Bytes)>>; 2],
}

/// Serves until the future that calls it is dropped.
pub(crate) async fn serve(listener: Listener, collector: Collector) {
    let shared = Arc::new(Shared {
        collector: Mutex::new(collector),
        last: Default::default(),
    });
    let reading = tokio::spawn(read_on(shared.clone()));
    let mut connections = Connections(VecDeque::from([reading]));
    loop {
        match listener.accept(&shared).await {
            Ok(connection) => connections.add(connection),
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Tasks that end with it. The first one stays.
struct Connections(VecDeque<JoinHandle<()>>);

impl Connections {
    fn add(&mut self, connection: JoinHandle<()>) {
        self.0.retain(|task| !task.is_finished());
        if self.0.len() > MOST_CONNECTIONS
            && let Some(oldest) = self.0.remove(1)
        {
            oldest.abort();
        }
        self.0.push_back(connection);
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

async fn read_on(shared: Arc<Shared>) {
    let mut ticks = interval(READ_ON);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let shared = shared.clone();
        let read = tokio::task::spawn_blocking(move || shared.collector().read_on());
        // One that panicked has said so.
        let _ = read.await;
    }
}

/// One request, and its answer.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    shared: Arc<Shared>,
) {
    let answer = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(shared.answer(&request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_WITHIN)
        .max_buf_size(LONGEST_REQUEST)
        .serve_connection(TokioIo::new(stream), answer);
    // Who hangs up, or speaks no HTTP, has had its answer.
    let _ = timeout(PATIENCE, connection).await;
}

impl Shared {
    fn collector(&self) -> std::sync::MutexGuard<'_, Collector> {
        self.collector
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(self: &Arc<Self>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            let allowed = hyper::header::HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, allowed);
            return response;
        }
        match request.uri().path() {
            "/metrics" => self.metrics(wanted(request)).await,
            "/" => plain(StatusCode::OK, "respawn: the metrics are at /metrics\n"),
            _ => plain(StatusCode::NOT_FOUND, "the metrics are at /metrics\n"),
        }
    }

    async fn metrics(self: &Arc<Self>, format: Format) -> Response<Full<Bytes>> {
        let (slot, kind) = match format {
            Format::Openmetrics => (
                0,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            ),
            Format::Prometheus => (1, "text/plain; version=0.0.4; charset=utf-8"),
        };
        // Those that ask meanwhile wait for the same answer.
        let mut last = self.last[slot].lock().await;
        let fresh = last
            .as_ref()
            .filter(|(made, _)| clock::awake().saturating_sub(*made) < FRESH);
        let text = if let Some((_, text)) = fresh {
            text.clone()
        } else {
            let shared = self.clone();
            let made = tokio::task::spawn_blocking(move || shared.collector().scrape(format)).await;
            let Ok(Ok(text)) = made else {
                return plain(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the metrics cannot be made\n",
                );
            };
            let text = Bytes::from(text);
            *last = Some((clock::awake(), text.clone()));
            text
        };
        answer(StatusCode::OK, kind, text)
    }
}

/// OpenMetrics for who takes it.
fn wanted(request: &Request<Incoming>) -> Format {
    let accepted = request.headers().get_all(ACCEPT).iter();
    let takes = |value: &hyper::header::HeaderValue| {
        let text = value.to_str().unwrap_or_default();
        text.contains("application/openmetrics-text")
    };
    match accepted.into_iter().any(takes) {
        true => Format::Openmetrics,
        false => Format::Prometheus,
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    answer(
        status,
        "text/plain; charset=utf-8",
        Bytes::from_static(text.as_bytes()),
    )
}

fn answer(status: StatusCode, kind: &'static str, text: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_of_this_host_unless_it_is_written_out() {
        for (text, is_open) in [
            ("9550", false),
            ("127.0.0.1:9550", false),
            ("127.9.9.9:0", false),
            ("[::1]:9550", false),
            ("[::ffff:127.0.0.1]:9550", false),
            ("/run/m.sock", false),
            ("unix:/run/m.sock", false),
            ("0.0.0.0:9550", true),
            ("[::]:9550", true),
            ("192.0.2.1:9550", true),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!(address.is_open(), is_open, "{text}");
        }
        for text in [
            "",
            ":9550",
            "localhost:9550",
            "127.0.0.1",
            "70000",
            "unix:x",
            "run/x",
        ] {
            assert!(Address::parse(text).unwrap_err().contains("9550"), "{text}");
        }
    }
}
