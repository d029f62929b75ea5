//! What systemd holds for a unit's service: sockets and stored descriptors.

use super::Unit;
use crate::import::Severity::{Approximated, Lost};
use crate::import::sockets::Sockets;
use crate::model::MOST_STORED;

impl Unit<'_> {
    /// The sockets that systemd holds for it.
    pub(super) fn listen(&mut self, kind: &str) {
        let (mut listen, mut origins) = (Vec::new(), Vec::new());
        for from in self.all("Service", "Sockets") {
            let is_known = |name| self.sockets.iter().any(|it| it.name == name);
            if !from.value.split_ascii_whitespace().all(is_known) {
                let message = "not all of these are imported: their sockets are not passed to it";
                self.find(Lost, &from, message);
            }
        }
        for text in self.sockets.clone() {
            let head = format!("with {}", text.path.display());
            self.service.head.push(head);
            let sockets = Sockets::read(text, &self.host.name);
            for (severity, from, message) in &sockets.findings {
                self.find(*severity, from, message);
            }
            listen.extend(sockets.listen);
            origins.extend(sockets.origins);
        }
        match origins.first() {
            Some(from) if kind == "oneshot" => {
                self.find(Lost, from, "a oneshot service has no sockets");
            }
            Some(from) if self.service.get("type").is_some_and(|it| it == "forking") => {
                let message = "a service that goes into the background is passed no sockets";
                self.find(Lost, from, message);
            }
            Some(_) => self.set("listen", listen, &origins),
            None => {}
        }
    }

    /// What it leaves with systemd for its next start.
    pub(super) fn fd_store(&mut self, kind: &str) {
        let Some(from) = self.last("Service", "FileDescriptorStoreMax") else {
            return;
        };
        let is_forking = self.service.get("type").is_some_and(|it| it == "forking");
        match from.value.parse::<u32>() {
            Ok(0) => {}
            Ok(_) if kind == "oneshot" || is_forking => {
                let message = "only a service that stays in the foreground can store descriptors";
                self.find(Lost, &from, message);
            }
            Ok(number) if number > MOST_STORED.into() => {
                let message = format!("it can store {MOST_STORED} at most");
                self.find(Approximated, &from, message);
                self.set("fd_store", MOST_STORED, &[from]);
            }
            Ok(number) => self.set("fd_store", number, &[from]),
            Err(_) => self.find(Lost, &from, "this is not such a number"),
        }
    }
}
