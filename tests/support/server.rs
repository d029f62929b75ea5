//! A server of the tests that takes its sockets as `sd_listen_fds(3)` has it.
//!
//! `server [move|swap|close|child|nonblock]`: answers each connection and each datagram with one line: its
//! pid, `LISTEN_PID`, `LISTEN_FDS`, `LISTEN_FDNAMES` and the number of the descriptor. Connections that
//! begin with `GET` are answered as HTTP; `die` ends it. `move`: has its first socket elsewhere. `swap`: has
//! it elsewhere, and another one in its place. `close`: has closed all.
//! `child`: a child has them, and it itself has closed them. `nonblock`: leaves them so that nobody waits.

use std::fs::File;
use std::io::{Read, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::thread;
use std::time::Duration;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let how = std::env::args().nth(1).unwrap_or_default();
    let variable = |name| std::env::var(name).unwrap_or_default();
    let [pid, count, names] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"].map(variable);
    let about = format!("{} {pid} {count} {names}", std::process::id());
    let mut sockets: Vec<RawFd> = (3..3 + count.parse::<RawFd>().unwrap_or(0)).collect();
    match how.as_str() {
        "move" => {
            // SAFETY: these descriptors are this process's to use, as the variables say.
            unsafe { libc::dup2(3, 50) };
            // SAFETY: as above.
            unsafe { libc::close(3) };
            sockets[0] = 50;
        }
        "swap" => {
            let other = std::net::TcpListener::bind("127.0.0.1:0")?;
            // SAFETY: as above.
            unsafe { libc::dup2(3, 50) };
            // SAFETY: as above.
            unsafe { libc::dup2(other.as_raw_fd(), 3) };
            sockets[0] = 50;
        }
        "close" => {
            for socket in sockets.drain(..) {
                // SAFETY: as above.
                unsafe { libc::close(socket) };
            }
        }
        "child" => {
            let own = std::env::current_exe()?;
            Command::new(own).arg("serve").spawn()?;
            for socket in sockets.drain(..) {
                // SAFETY: as above.
                unsafe { libc::close(socket) };
            }
        }
        "nonblock" => {
            for socket in &sockets {
                // SAFETY: as above.
                unsafe { libc::fcntl(*socket, libc::F_SETFL, libc::O_NONBLOCK) };
            }
        }
        _ => {}
    }
    for socket in sockets {
        let about = about.clone();
        thread::spawn(move || serve(socket, &format!("{about} {socket}")));
    }
    loop {
        thread::sleep(Duration::from_secs(1000));
    }
}

fn serve(socket: RawFd, about: &str) {
    let mut kind = 0_i32;
    let mut length = 4;
    // SAFETY: the kernel writes an int.
    unsafe {
        libc::getsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_TYPE,
            (&raw mut kind).cast(),
            &raw mut length,
        );
    }
    if kind == libc::SOCK_DGRAM {
        // SAFETY: it is a socket that nobody else in this process uses. What its address family is,
        // matters for addresses alone, which are not asked for.
        let socket = ManuallyDrop::new(unsafe { UnixDatagram::from_raw_fd(socket) });
        let mut bytes = [0; 100];
        while let Ok(length) = socket.recv(&mut bytes) {
            // What is sent names a file to answer in.
            let path = String::from_utf8_lossy(&bytes[..length]).into_owned();
            let _ = std::fs::write(path, about);
        }
        return;
    }
    loop {
        // SAFETY: no address is asked for.
        let stream = unsafe {
            libc::accept4(
                socket,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                libc::SOCK_CLOEXEC,
            )
        };
        if stream < 0 {
            // Also where nobody waits.
            thread::sleep(Duration::from_millis(1));
            continue;
        }
        // SAFETY: it was just accepted, and nobody else knows it.
        let stream = unsafe { File::from_raw_fd(stream) };
        let about = about.to_owned();
        thread::spawn(move || answer(stream, &about));
    }
}

fn answer(mut stream: File, about: &str) {
    let mut bytes = [0; 1000];
    let length = stream.read(&mut bytes).unwrap_or(0);
    if bytes[..length].starts_with(b"die") {
        std::process::exit(1);
    }
    let text = match bytes[..length].starts_with(b"GET") {
        true => format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{about}\n",
            about.len() + 1
        ),
        false => format!("{about}\n"),
    };
    let _ = stream.write_all(text.as_bytes());
}
