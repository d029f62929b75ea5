//! A small HTTP server on the socket that respawn holds for it, with the standard library alone.
//!
//! ```console
//! $ rustc -O server.rs -o /usr/local/bin/web
//! ```
//!
//! ```toml
//! # /etc/respawn/services/web.toml
//! command = ["/usr/local/bin/web"]
//! listen = [{ tcp = "127.0.0.1:8080" }]
//! ```

use std::env;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{FromRawFd, OwnedFd};
use std::process;
use std::thread;

fn main() -> io::Result<()> {
    let listener = match held() {
        Some(listener) => listener,
        None => TcpListener::bind("127.0.0.1:8080")?,
    };
    for stream in listener.incoming().flatten() {
        thread::spawn(move || answer(stream));
    }
    Ok(())
}

/// The first of the sockets that were passed, as `sd_listen_fds(3)` has it.
fn held() -> Option<TcpListener> {
    let number = |name| env::var(name).ok()?.parse::<u32>().ok();
    let is_for_us = number("LISTEN_PID") == Some(process::id());
    if !is_for_us || number("LISTEN_FDS")? == 0 {
        return None;
    }
    // SAFETY: the variables say that descriptor 3 is this process's to use, and nothing else here uses it.
    Some(unsafe { OwnedFd::from_raw_fd(3) }.into())
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut request = Vec::new();
    let mut bytes = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < 8192 {
        match stream.read(&mut bytes)? {
            0 => return Ok(()),
            length => request.extend_from_slice(&bytes[..length]),
        }
    }
    let text = format!("{}\n", process::id());
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        text.len()
    );
    stream.write_all((head + &text).as_bytes())
}
