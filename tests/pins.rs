//! What an agent finds at its start may be anything: damaged, someone else's, in the wrong place.
//! It says so in clear words, and the services are kept.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::bpf::Object;
use support::rig::{Instance, Memory, Rig, report};
use support::scene::Scene;
use support::{
    Victim, copy_program, eventually, needs_root, now, readable_by_all, respawn, signal_to, skip,
};

fn assert_says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "expected {word:?} in:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_damaged_memory_file_is_set_aside_with_a_word() {
    needs_root!("a damaged memory file");
    let mut scene = Scene::new(Memory::Kernel);
    let whole = fs::read(scene.rig.memory_file("web")).unwrap();
    let line = whole.split(|&byte| byte == b'\n').next().unwrap();
    let half = line[..line.len() / 2].to_vec();
    let damages: [&[u8]; 6] = [b"", b"{}", b"null", &half, &[0xff; 300], b"[[[[[[[["];
    for damage in damages {
        let said = scene.between_agents(|rig| {
            fs::write(rig.memory_file("web"), damage).unwrap();
        });
        assert_says(&said, &["web.json", "damaged, not used"]);
        scene.assert_kept();
    }
    // A torn write is left beside it and taken no notice of.
    scene.between_agents(|rig| fs::write(rig.state_dir().join("web.new"), &half).unwrap());
    scene.assert_kept();
}

#[test]
fn something_else_in_a_memory_files_place_keeps_nobody_from_work() {
    needs_root!("something else in a memory file's place");
    let mut scene = Scene::new(Memory::Kernel);
    let said = scene.between_agents(|rig| {
        let path = rig.memory_file("web");
        fs::remove_file(&path).unwrap();
        fs::create_dir_all(path.join("deeper")).unwrap();
    });
    assert_says(&said, &["web.json"]);
    scene.assert_kept();
}

/// The memory file, changed.
fn change(path: &Path, what: impl FnOnce(&mut Value)) {
    let text = fs::read_to_string(path).unwrap();
    let mut value: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    what(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

#[test]
fn the_memory_of_another_boot_is_not_used() {
    needs_root!("the memory of another boot");
    let mut scene = Scene::new(Memory::Kernel);
    let said = scene.between_agents(|rig| {
        change(&rig.memory_file("web"), |file| {
            file["boot_id"] = json!("00000000-0000-4000-8000-000000000000");
            file["memory"]["desired"] = json!("down");
        });
    });
    assert_says(&said, &["web.json", "of another boot"]);
    scene.assert_kept();
}

#[test]
fn another_hosts_state_copied_over_starts_from_the_config() {
    needs_root!("another host's state");
    let mut other = Scene::new(Memory::Kernel);
    other.agent.kill();
    let stranger = Victim::start("/usr/bin/sleep", &["100000"]);

    let mut scene = Scene::new(Memory::Kernel);
    scene.agent.kill();
    let rig = &scene.rig;
    fs::remove_dir_all(rig.runtime_dir()).unwrap();
    copy_folder(&other.rig.runtime_dir(), &rig.runtime_dir());
    change(&rig.memory_file("web"), |file| {
        file["boot_id"] = json!("00000000-0000-4000-8000-000000000000");
        file["memory"]["instance"]["pid"] = json!(stranger.pid());
    });
    // The other one's journal goes on here.
    scene.ledger = rig.ledger();
    scene.agent = rig.agent();
    scene.ledger.next_agent(1);
    scene.ledger.current("web");
    assert_says(&rig.log(), &["of another boot"]);
    scene.assert_kept();
    assert!(Path::new(&format!("/proc/{}", stranger.pid())).exists());
}

#[test]
fn a_process_that_merely_has_the_pid_is_not_touched() {
    needs_root!("a process that merely has the pid");
    let mut scene = Scene::new(Memory::Kernel);
    let old = scene.web;
    // The same pid within the same tick is never given twice.
    let mut stranger = Victim::start("/usr/bin/sleep", &["100000"]);
    while support::start_time_ns(stranger.pid()) == old.1 {
        stranger = Victim::start("/usr/bin/sleep", &["100000"]);
    }
    scene.between_agents(|rig| {
        // Gone without a trace, its pid another's by now.
        signal_to(old.0, Signal::SIGKILL);
        eventually("it is dead", || rig.live("web").is_empty().then_some(()));
        let _ = fs::remove_dir_all(rig.pin_dir());
        change(&rig.memory_file("web"), |file| {
            file["memory"]["instance"]["pid"] = json!(stranger.pid());
        });
    });
    scene.web = scene.ledger.current("web");
    assert_ne!(scene.web.0, stranger.pid());
    scene.assert_kept();
    let stop = scene.rig.run(&["stop", "web"]);
    assert!(stop.status.success(), "{stop:?}");
    let stat = fs::read_to_string(format!("/proc/{}/stat", stranger.pid())).unwrap();
    assert!(stat.contains(") S "), "{stat}");
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let (kind, target) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy_folder(&entry.path(), &target);
        } else if kind.is_file() {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The pinned exit programs of this kernel: the one that it cannot do without, and perhaps another.
fn exit_pins(rig: &Rig) -> Vec<&'static str> {
    let mut pins = vec![
        "exit_group_dead",
        "exit_live_zero",
        "exit_event",
        "exit_early",
    ];
    pins.retain(|name| rig.pin(name).exists());
    assert!(!pins.is_empty());
    pins
}

fn swap(rig: &Rig, one: &str, other: &str) {
    let (one, other) = (rig.pin(one), rig.pin(other));
    let aside = one.with_file_name("aside");
    fs::rename(&one, &aside).unwrap();
    fs::rename(&other, &one).unwrap();
    fs::rename(&aside, &other).unwrap();
}

#[test]
fn pins_that_are_not_what_they_should_be_are_cleared_away() {
    needs_root!("pins that are not what they should be");
    let mut scene = Scene::new(Memory::Kernel);
    let exits = exit_pins(&scene.rig);
    let exit = exits[0];
    let swaps = [
        ("EVENTS", "LOST"),
        ("EVENTS", "AYA_LOGS"),
        ("WATCHED", "CLAIMED"),
        ("MARK", "NOTES"),
        ("birth", exit),
        ("birth", "WATCHED"),
        (exit, "EVENTS"),
    ];
    for (one, other) in swaps {
        let said = scene.between_agents(|rig| swap(rig, one, other));
        let pin_dir = scene.rig.pin_dir().display().to_string();
        assert_says(&said, &["the pins are cleared away", &pin_dir]);
        assert!(said.contains(one) || said.contains(other), "{said}");
        scene.assert_kept();
    }
    for missing in [&["EVENTS", "WATCHED", "MARK", "birth"], &exits[..]].concat() {
        let said = scene.between_agents(|rig| fs::remove_file(rig.pin(missing)).unwrap());
        assert_says(&said, &["the pins are cleared away"]);
        assert!(scene.rig.pin(missing).exists(), "{missing}");
        scene.assert_kept();
    }
    let said = scene.between_agents(|rig| {
        fs::remove_file(rig.pin("LOST")).unwrap();
        fs::create_dir(rig.pin("LOST")).unwrap();
    });
    assert_says(&said, &["the pins are cleared away", "LOST"]);
    scene.assert_kept();
}

#[test]
fn maps_that_the_programs_do_not_use_are_cleared_away() {
    needs_root!("maps that the programs do not use");
    let mut scene = Scene::new(Memory::Kernel);
    let other = Scene::new(Memory::Kernel);
    for map in ["EVENTS", "WATCHED", "HINTS", "LOST", "SIGNALS", "MARK"] {
        let said = scene.between_agents(|rig| {
            fs::remove_file(rig.pin(map)).unwrap();
            fs::rename(other.rig.pin(map), rig.pin(map)).unwrap();
        });
        assert_says(&said, &["the pins are cleared away", map]);
        scene.assert_kept();
    }
}

/// Has the next agent need pins of another size, while its service dies; asserts that the cause is
/// told as ever, and that the old pins are gone then.
fn takes_over_from_pins_of_another_size(scene: &mut Scene, why: impl FnOnce(&mut Rig), map: &str) {
    let old = scene.web;
    let said = scene.between_agents(|rig| {
        why(rig);
        signal_to(old.0, Signal::SIGKILL);
        eventually("it is dead", || rig.live("web").is_empty().then_some(()));
    });
    let words = ["the pins are of another size: taking over from them", map];
    assert_says(&said, &words);
    assert!(!said.contains("cleared away"), "{said}");
    scene.web = scene.ledger.wait("it is back", |ledger| {
        ledger.has_current("web").filter(|now| *now != old)
    });
    let exits = &scene.ledger.told("web", old).exits;
    assert_eq!(exits.len(), 1, "{exits:?}");
    assert_eq!(
        exits[0]["cause"]["sender"]["pid"],
        std::process::id(),
        "{exits:?}"
    );
    eventually("the old pins are gone", || {
        let sets = fs::read_dir(scene.rig.pin_dir()).unwrap().count();
        (sets == 1).then_some(())
    });
    scene.assert_kept();
    // One that lives is kept as well.
    scene.between_agents(|_| {});
    scene.assert_kept();
}

#[test]
fn pins_of_another_size_are_taken_over_from() {
    needs_root!("pins of another size");
    let mut scene = Scene::new(Memory::Kernel);
    let smaller = |rig: &mut Rig| rig.set("RESPAWN_RING_BYTES", "65536");
    takes_over_from_pins_of_another_size(&mut scene, smaller, "EVENTS");
    let usual = |rig: &mut Rig| rig.unset("RESPAWN_RING_BYTES");
    takes_over_from_pins_of_another_size(&mut scene, usual, "EVENTS");
}

/// How many processes the kernel may watch.
fn room(rig: &Rig) -> u64 {
    let map = Object::pinned(&rig.pin("WATCHED")).unwrap();
    map.figure("max_entries").unwrap()
}

#[test]
fn the_watch_map_grows_with_the_services_and_loses_nothing() {
    needs_root!("a watch map that grows");
    let mut rig = Rig::new();
    rig.set("RESPAWN_MOST_WATCHED", "5");
    let mut scene = Scene::with(rig);
    assert_eq!(room(&scene.rig), 5);
    let more = |rig: &mut Rig| rig.unset("RESPAWN_MOST_WATCHED");
    takes_over_from_pins_of_another_size(&mut scene, more, "WATCHED");
    assert_eq!(room(&scene.rig), 16_384);
    // Nor is it made smaller where the ring is what is of another size.
    let smaller = |rig: &mut Rig| {
        rig.set("RESPAWN_RING_BYTES", "65536");
        rig.set("RESPAWN_MOST_WATCHED", "5");
    };
    takes_over_from_pins_of_another_size(&mut scene, smaller, "EVENTS");
    assert_eq!(room(&scene.rig), 16_384);
    let old = scene.web;
    // One that is larger than need be stays.
    let said = scene.between_agents(|rig| rig.set("RESPAWN_MOST_WATCHED", "5"));
    assert!(!said.contains("taking over"), "{said}");
    assert_eq!((room(&scene.rig), scene.web), (16_384, old));
    scene.assert_kept();
    let said = scene.between_agents(|rig| {
        rig.unset("RESPAWN_MOST_WATCHED");
        let services: String = (0..4100)
            .map(|n| format!("[service.more-{n}]\ncommand = [\"/bin/false\"]\nautostart = false\n"))
            .collect();
        fs::write(rig.path().join("config/services/more.toml"), services).unwrap();
    });
    assert_says(&said, &["taking over from them", "WATCHED", "32768"]);
    assert_eq!(room(&scene.rig), 32_768);
    scene.assert_kept();
}

#[test]
fn pins_of_another_version_are_cleared_away() {
    needs_root!("pins of another version");
    let mut scene = Scene::new(Memory::Kernel);
    scene.between_agents(|rig| {
        let current = rig.pin("EVENTS");
        let folder = current.parent().unwrap();
        fs::rename(folder, folder.with_file_name("v1")).unwrap();
    });
    // Not before the journal has what is known from them.
    eventually("they are cleared away", || {
        let is_there = scene.rig.pin_dir().join("v1").exists();
        (!is_there).then_some(())
    });
    let words = ["cleared the pins of another version", "v1"];
    eventually("it says so", || {
        let log = scene.rig.log();
        words.iter().all(|word| log.contains(word)).then_some(())
    });
    scene.assert_kept();
}

#[test]
fn exits_that_another_version_has_recorded_are_mended_and_spoken_of() {
    needs_root!("exits that another version has recorded");
    let mut scene = Scene::new(Memory::Kernel);
    let old = scene.web;
    let said = scene.between_agents(|rig| {
        signal_to(old.0, Signal::SIGKILL);
        eventually("it is dead", || rig.live("web").is_empty().then_some(()));
        let events = rig.pin("EVENTS");
        let folder = events.parent().unwrap();
        fs::rename(folder, folder.with_file_name("v1")).unwrap();
    });
    assert_says(&said, &["records of exits left by another version: 1"]);
    scene.web = scene.ledger.wait("it is back", |ledger| {
        ledger.has_current("web").filter(|now| *now != old)
    });
    let exits = &scene.ledger.told("web", old).exits;
    assert_eq!(exits.len(), 1, "{exits:?}");
    assert_eq!(exits[0]["cause"]["sender"], Value::Null, "{exits:?}");
    scene.assert_kept();
}

#[test]
fn pins_of_another_agent_are_cleared_away() {
    needs_root!("pins of another agent");
    let mut first = Scene::new(Memory::Kernel);
    first.agent.kill();
    let mut rig = Rig::new();
    rig.set_pin_dir(first.rig.pin_dir());
    let mut second = Scene::with(rig);
    let words = ["the pins are cleared away", "another runtime directory"];
    assert_says(&second.rig.log(), &words);
    second.assert_watched();
    // The first one is held by its memory files, and finds the pins to be the second one's.
    second.agent.kill();
    first.agent = first.rig.agent();
    first.ledger.next_agent(1);
    first.assert_kept();
}

/// A mount that an agent has made, gone with the value.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_bpf_file_system_is_mounted_where_there_is_none() {
    needs_root!("no bpf file system");
    let mut rig = Rig::new();
    let place = rig.path().join("pins");
    rig.set_pin_dir(&place);
    let mounted = Mounted(place.clone());
    let mut scene = Scene::with(rig);
    let name = place.display().to_string();
    assert_says(&scene.rig.log(), &["mounted a bpf file system at", &name]);
    let mode = fs::metadata(&place).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert!(scene.rig.pin("EVENTS").exists());
    // The next agent finds it there.
    let said = scene.between_agents(|_| {});
    assert!(!said.contains("mounted"), "{said}");
    scene.assert_kept();
    assert!(scene.rig.run(&["shutdown"]).status.success());
    scene.agent.ended();
    drop(mounted);
}

#[test]
fn without_a_place_for_pins_it_works_without() {
    needs_root!("without a place for pins");
    let mut rig = Rig::new();
    let file = rig.path().join("file");
    fs::write(&file, "").unwrap();
    for place in [PathBuf::from("/proc/respawn"), file.join("below"), file] {
        rig.set_pin_dir(&place);
        let mut scene = Scene::with(rig);
        let place = place.display().to_string();
        let words = ["nothing is pinned", &place, "will not be recorded"];
        assert_says(&scene.rig.log(), &words);
        // Its memory files are there all the same.
        scene.between_agents(|_| {});
        scene.assert_kept();
        assert!(scene.rig.run(&["shutdown"]).status.success());
        scene.agent.ended();
        rig = scene.rig;
        fs::remove_file(rig.path().join("log")).unwrap();
        fs::remove_file(rig.runtime_dir().join("journal")).unwrap();
    }
}

#[test]
fn an_unprivileged_agent_says_what_it_lacks() {
    needs_root!("an unprivileged agent");
    let Some((_folder, binary)) = readable_by_all(&respawn()) else {
        return skip("an unprivileged agent", "nobody cannot run a copy");
    };
    let mut rig = Rig::new();
    rig.sleeper("web");
    rig.run_by(&binary, 65534);
    for path in [rig.path().to_owned(), rig.path().join("config")] {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::create_dir(rig.runtime_dir()).unwrap();
    chown(rig.runtime_dir(), Some(65534), Some(65534)).unwrap();
    let mut scene = Scene::with(rig);
    assert_says(&scene.rig.log(), &["nothing is pinned", "without eBPF"]);
    scene.between_agents(|_| {});
    assert_eq!(scene.ledger.current("web"), scene.web);
    scene.assert_mended();
}

/// A file system of a few pages, gone with the value.
struct TinyDisk(PathBuf);

impl TinyDisk {
    fn at(path: PathBuf) -> Self {
        fs::create_dir_all(&path).unwrap();
        let options = "size=128k,mode=755";
        let none = MsFlags::empty();
        mount(Some("tiny"), &path, Some("tmpfs"), none, Some(options)).unwrap();
        Self(path)
    }

    fn fill(&self) {
        // A write that is refused may have been too large.
        let mut bytes = vec![0_u8; 128 << 10];
        while !bytes.is_empty() {
            let path = self.0.join(format!("filler-{}", bytes.len()));
            let _ = fs::write(path, &bytes);
            bytes.truncate(bytes.len() / 2);
        }
        assert!(fs::write(self.0.join("probe"), [0; 4096]).is_err());
    }

    fn empty(&self) {
        for entry in fs::read_dir(&self.0).unwrap().flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(b"filler") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    }

    fn set_writable(&self, is_so: bool) {
        let mut flags = MsFlags::MS_REMOUNT;
        flags.set(MsFlags::MS_RDONLY, !is_so);
        mount(None::<&str>, &self.0, None::<&str>, flags, None::<&str>).unwrap();
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_keeps_no_service_from_coming_back() {
    needs_root!("a full disk");
    full_disk(Memory::Kernel);
}

#[test]
fn without_ebpf_a_full_disk_keeps_no_service_from_coming_back() {
    needs_root!("a full disk without eBPF");
    full_disk(Memory::FilesAlone);
}

fn full_disk(memory: Memory) {
    let rig = Rig::with(memory);
    let disk = TinyDisk::at(rig.runtime_dir());
    let mut scene = Scene::with(rig);
    disk.fill();
    for _ in 0..20 {
        // The journal, which has a part of a page left, may tell the first ones.
        let old = scene.web;
        scene.kill_web();
        scene.web = eventually("it is back", || the_one_that_is_not(&scene, old));
    }
    // No config can be kept, and each of them is used.
    let settings = scene.rig.path().join("config/agent.toml");
    for hooks in [3, 4] {
        let text = format!("journal_max_size = \"1GiB\"\nmax_hooks = {hooks}\n");
        fs::write(&settings, text).unwrap();
        assert!(scene.rig.run(&["reload"]).status.success());
    }
    scene.agent.kill();
    let said = scene.rig.log();
    let not_kept = "cannot keep the last good config";
    let words = [
        "the journal cannot be written",
        "cannot remember it",
        not_kept,
    ];
    assert_says(&said, &words);
    assert_eq!(said.matches(not_kept).count(), 1, "{said}");
    // The next agent finds a memory file that is out of date, and the kernel, or a birth's file
    // that needed no more room, that is not.
    scene.agent = scene.rig.agent();
    eventually("the next agent works", || {
        scene.rig.run(&["status"]).status.success().then_some(())
    });
    scene.rig.assert_single("web", scene.web);
    let old = scene.web;
    scene.kill_web();
    scene.web = eventually("it is back", || the_one_that_is_not(&scene, old));

    disk.empty();
    assert_mended_from_here(&mut scene);
}

#[test]
fn a_runtime_directory_that_becomes_read_only_keeps_the_services() {
    needs_root!("a runtime directory that becomes read-only");
    let rig = Rig::new();
    let disk = TinyDisk::at(rig.runtime_dir());
    let mut scene = Scene::with(rig);
    // While an agent has its files open, the kernel does not let it.
    scene.agent.kill();
    disk.set_writable(false);
    let mut agent = scene.rig.agent();
    assert_eq!(agent.wait().code(), Some(1));
    assert_says(&scene.rig.log(), &["cannot lock", "Read-only"]);
    scene.rig.assert_single("web", scene.web);
    disk.set_writable(true);
    scene.agent = scene.rig.agent();
    scene.assert_kept();
}

#[test]
fn a_stop_that_cannot_be_written_down_says_so_and_is_made_good() {
    needs_root!("a stop on a full disk");
    let rig = Rig::new();
    let disk = TinyDisk::at(rig.runtime_dir());
    let mut scene = Scene::with(rig);
    disk.fill();
    // What was written last may have left some room in its page.
    while !scene.rig.log().contains("cannot remember it") {
        let old = scene.web;
        scene.kill_web();
        scene.web = eventually("it is back", || the_one_that_is_not(&scene, old));
    }
    let stop = scene.rig.run(&["stop", "web"]);
    let said = String::from_utf8(stop.stderr).unwrap();
    assert_eq!(stop.status.code(), Some(1), "{said}");
    assert_says(&said, &["could not be written down"]);
    assert_eq!(scene.rig.live("web"), [0; 0]);
    disk.empty();
    eventually("it is written down", || {
        let file = fs::read_to_string(scene.rig.memory_file("web")).ok()?;
        let last: Value = serde_json::from_str(file.lines().last()?).ok()?;
        (last["memory"]["desired"] == "down").then_some(())
    });
    scene.agent.kill();
    scene.agent = scene.rig.agent();
    let status = eventually("the next agent works", || {
        let status = scene.rig.run(&["status", "--json"]);
        serde_json::from_slice::<Value>(&status.stdout).ok()
    });
    assert_eq!(status[0]["state"], "stopped", "{status}");
}

#[test]
fn a_signal_that_cannot_be_sent_is_not_done() {
    const NAME: &str = "a signal that cannot be sent";
    needs_root!(NAME);
    let Some((_folder, binary)) = readable_by_all(&respawn()) else {
        return skip(NAME, "nobody cannot run a copy");
    };
    let folder = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .unwrap();
    let victim = folder.path().join("victim");
    copy_program(env!("CARGO_BIN_EXE_victim"), &victim);
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o4755)).unwrap();
    let mut rig = Rig::new();
    rig.service("web", &format!("[{victim:?}, \"as-root\"]"), "");
    rig.run_by(&binary, 65534);
    for path in [rig.path().to_owned(), rig.path().join("config")] {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::create_dir(rig.runtime_dir()).unwrap();
    chown(rig.runtime_dir(), Some(65534), Some(65534)).unwrap();
    let _agent = rig.agent();
    let web = rig.ledger().current("web");
    eventually("it has become root", || {
        let uids = support::proc_status(web.0, "Uid");
        uids.starts_with('0').then_some(())
    });
    let signal = rig.run(&["signal", "HUP", "web"]);
    let said = String::from_utf8(signal.stderr).unwrap();
    assert_eq!(signal.status.code(), Some(1), "{said}");
    assert_says(&said, &["could not be sent", "not permitted"]);
    signal_to(web.0, Signal::SIGKILL);
}

/// The living instance, if there is one, and it is another.
fn the_one_that_is_not(scene: &Scene, old: Instance) -> Option<Instance> {
    let live = scene.rig.live("web");
    assert!(live.len() <= 1, "{live:?}");
    let pid = *live.first().filter(|pid| **pid != old.0)?;
    Some((pid, support::start_time_ns(pid)))
}

/// As [`Scene::assert_mended`], where the journal has a gap.
fn assert_mended_from_here(scene: &mut Scene) {
    let old = scene.web;
    scene.kill_web();
    let journal = scene.rig.runtime_dir().join("journal");
    let event = eventually("the journal goes on", || {
        let text = fs::read_to_string(&journal).unwrap();
        let mut events = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        events.find(|event: &Value| event["event"] == "exited" && event["pid"] == old.0)
    });
    assert_eq!(event["cause"]["signal"], "SIGKILL", "{event}");
    let text = fs::read_to_string(&journal).unwrap();
    assert!(text.contains("\"journal_gap\""), "{text}");
    scene.web = eventually("it is back", || the_one_that_is_not(scene, old));
    scene.rig.assert_single("web", scene.web);
}

#[test]
fn a_runtime_directory_that_cannot_be_used_is_a_clear_error() {
    needs_root!("a runtime directory that cannot be used");
    let rig = Rig::new();
    rig.sleeper("web");
    let refused = || {
        let mut command = rig.command(&["agent"]);
        let output = command.stdout(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let path = rig.runtime_dir().display().to_string();
    let disk = TinyDisk::at(rig.runtime_dir());
    disk.set_writable(false);
    assert_says(&refused(), &[&path, "Read-only file system"]);
    drop(disk);
    fs::remove_dir(rig.runtime_dir()).unwrap();
    fs::write(rig.runtime_dir(), "").unwrap();
    assert_says(&refused(), &[&path]);
    assert_eq!(rig.live("web"), [0; 0]);
}

#[test]
fn two_agents_with_one_pin_directory_both_work() {
    needs_root!("two agents with one pin directory");
    let mut first = Scene::new(Memory::Kernel);
    let mut rig = Rig::new();
    rig.set_pin_dir(first.rig.pin_dir());
    let mut second = Scene::with(rig);
    let said = second.rig.log();
    let words = ["another agent uses the pin directory", "--pin-dir"];
    assert_says(&said, &words);
    second.assert_watched();
    first.assert_watched();
    // The second one comes back while the first one's pins are there, and its agent is not.
    first.agent.kill();
    second.between_agents(|_| {});
    second.assert_kept();
    first.between_agents(|_| {});
    first.assert_kept();
    second.assert_kept();
}

/// An object that differs from the binary's own in a way that means nothing.
fn another_build(rig: &Rig) -> PathBuf {
    let object = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../monitor-ebpf/prebuilt/respawn.bpf.o"
    );
    let mut bytes = fs::read(object).unwrap();
    bytes.push(0);
    let path = rig.path().join("another.bpf.o");
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn an_upgrade_in_place_restarts_no_service() {
    needs_root!("an upgrade in place");
    let mut scene = Scene::new(Memory::Kernel);
    let another = another_build(&scene.rig);
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        scene.agent.signal(signal);
        scene.agent.wait();
        let said = scene.between_agents(|rig| {
            rig.set("RESPAWN_BPF_OBJECT", another.display().to_string());
        });
        assert_says(&said, &["another build's: taking over"]);
        scene.assert_kept();
        // The next one of the same build loads nothing.
        let said = scene.between_agents(|_| {});
        assert!(!said.contains("another build's"), "{said}");
        scene.assert_kept();
        let said = scene.between_agents(|rig| rig.unset("RESPAWN_BPF_OBJECT"));
        assert_says(&said, &["another build's: taking over"]);
        scene.assert_kept();
    }
}

#[test]
fn a_spare_goes_on_as_the_binary_that_has_taken_its_files_place() {
    needs_root!("a spare whose binary is replaced");
    let mut rig = Rig::new();
    let (binary, new) = (rig.path().join("respawn"), rig.path().join("new"));
    copy_program(respawn().get_program(), &binary);
    rig.run_by(&binary, 0);
    let mut scene = Scene::with(rig);
    let spare = scene.rig.spare();
    copy_program(&binary, &new);
    fs::rename(&new, &binary).unwrap();
    let agents = scene.ledger.agents.len();
    scene.agent.kill();
    let pid = scene.ledger.next_agent(agents);
    assert_eq!(pid, spare.pid());
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let running = PathBuf::from(format!("/proc/{pid}/exe"));
    assert_eq!(inode(&running), inode(&binary));
    assert_says(&scene.rig.log(), &["was replaced: going on as the new one"]);
    scene.agent = spare;
    scene.assert_kept();
}

#[test]
fn a_new_build_that_takes_over_while_services_die_loses_and_doubles_nothing() {
    needs_root!("a new build takes over");
    const SERVICES: u32 = 16;
    const TAKEOVERS: usize = 40;
    let mut rig = Rig::new();
    let another = another_build(&rig);
    let names: Vec<String> = (0..SERVICES).map(|n| format!("web-{n}")).collect();
    for name in &names {
        rig.sleeper(name);
    }
    let mut ledger = rig.ledger();
    let mut agent = rig.agent();
    let mut killed = 0;
    // Those of the round before, whose exits may not be in the journal yet.
    let mut dead: Vec<Option<Instance>> = vec![None; names.len()];
    let mut takeover = Duration::ZERO;
    for round in 0..TAKEOVERS {
        for (name, dead) in names.iter().zip(&mut dead) {
            ledger.wait("it is back", |ledger| {
                ledger.has_current(name).filter(|now| Some(*now) != *dead)
            });
            *dead = None;
        }
        if round % 2 == 0 {
            rig.set("RESPAWN_BPF_OBJECT", another.display().to_string());
        } else {
            rig.unset("RESPAWN_BPF_OBJECT");
        }
        let agents = ledger.agents.len();
        agent.kill();
        agent = rig.agent();
        let start = now();
        // One after the other while it loads, attaches, pins and recovers.
        for ((name, dead), number) in names.iter().zip(&mut dead).zip(0..) {
            while start.elapsed() < takeover * number / SERVICES {
                thread::sleep(Duration::from_micros(100));
            }
            ledger.read();
            if let Some(instance) = ledger.has_current(name) {
                signal_to(instance.0, Signal::SIGKILL);
                *dead = Some(instance);
                killed += 1;
            }
        }
        ledger.next_agent(agents);
        takeover = start.elapsed();
    }
    for (name, dead) in names.iter().zip(dead) {
        let instance = ledger.wait("it is back", |ledger| {
            ledger.has_current(name).filter(|now| Some(*now) != dead)
        });
        rig.assert_single(name, instance);
    }
    let told: usize = names
        .iter()
        .map(|name| ledger.assert_each_exited_once(name, "SIGKILL"))
        .sum();
    assert_eq!(ledger.lost, 0);
    let takeovers = rig.log().matches("another build's: taking over").count();
    assert_eq!(takeovers, TAKEOVERS);
    report(&format!(
        "takeover by another build: {TAKEOVERS} times, {told} exits, each told once \
         ({killed} killed meanwhile, the last one taking {takeover:.2?})"
    ));
}

/// What `respawn unpin` says of the sets, by their paths, and whether it calls that a success.
fn unpin(rig: &Rig, arguments: &[&str]) -> (Value, bool) {
    let output = rig.run(&[&["unpin", "--json"], arguments].concat());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let is_success = output.status.success();
    assert_eq!(report["ok"], is_success, "{report}");
    (report, is_success)
}

/// What it says of the one set of a rig.
fn of_rig(rig: &Rig, report: &Value) -> Value {
    let own = rig.pin_dir().display().to_string();
    let sets = report["sets"].as_array().unwrap().iter();
    let is_own = |set: &&Value| set["path"].as_str().unwrap().starts_with(&own);
    let found: Vec<&Value> = sets.filter(is_own).collect();
    assert_eq!(found.len(), 1, "{report}");
    found[0].clone()
}

#[test]
fn pins_whose_agent_and_runtime_directory_are_gone_are_listed_and_removed() {
    needs_root!("pins whose agent and runtime directory are gone");
    let mut rig = Rig::new();
    // Wherever they are.
    rig.set_pin_dir(rig.pin_dir().join("deeper/and deeper"));
    let mut scene = Scene::with(rig);
    let runtime_dir = scene.rig.runtime_dir().canonicalize().unwrap();
    scene.agent.kill();
    scene.kill_web();
    let rig = &scene.rig;
    fs::remove_dir_all(&runtime_dir).unwrap();
    let set = of_rig(rig, &unpin(rig, &[]).0);
    assert_eq!(set["state"], "dead", "{set}");
    assert_eq!(set["runtime_dir"], runtime_dir.display().to_string());
    assert!(set["last_held"].is_string(), "{set}");
    assert_eq!(set["removed"], false, "{set}");
    assert!(rig.pin("EVENTS").exists());
    let said = rig.run(&["unpin"]);
    let said = String::from_utf8(said.stdout).unwrap();
    let words = [
        "is gone, last at work",
        "programs attached",
        "unpin --all-dead",
    ];
    assert_says(&said, &words);
    let path = rig.pin_dir().display().to_string();
    let (report, ok) = unpin(rig, &["--all-dead", &path]);
    assert!(ok, "{report}");
    assert_eq!(of_rig(rig, &report)["removed"], true, "{report}");
    assert!(!rig.pin_dir().exists());
    let (report, ok) = unpin(rig, &[&path]);
    assert!(!ok, "{report}");
}

#[test]
fn the_pins_of_a_living_agent_are_not_removed() {
    needs_root!("the pins of a living agent");
    let mut scene = Scene::new(Memory::Kernel);
    let path = scene.rig.pin_dir().display().to_string();
    let (report, ok) = unpin(&scene.rig, &[&path]);
    assert!(!ok, "{report}");
    let set = of_rig(&scene.rig, &report);
    assert_eq!(
        (&set["state"], &set["removed"]),
        (&json!("held"), &json!(false)),
        "{set}"
    );
    assert_eq!(set["holder"], scene.agent.pid(), "{set}");
    let error = set["error"].as_str().unwrap();
    assert_says(
        error,
        &[&format!("pid {} has it", scene.agent.pid()), "shutdown"],
    );
    let (report, ok) = unpin(&scene.rig, &["--all-dead", &path]);
    assert!(ok, "{report}");
    assert_eq!(of_rig(&scene.rig, &report)["removed"], false, "{report}");
    assert!(scene.rig.pin("EVENTS").exists());
    scene.assert_kept();
}

#[test]
fn pins_that_the_next_agent_is_to_take_up_are_removed_by_name_alone() {
    needs_root!("pins that the next agent is to take up");
    let mut scene = Scene::new(Memory::Kernel);
    let path = scene.rig.pin_dir().display().to_string();
    scene.between_agents(|rig| {
        let (report, _) = unpin(rig, &["--all-dead", &path]);
        let set = of_rig(rig, &report);
        assert_eq!(
            (&set["state"], &set["removed"]),
            (&json!("waiting"), &json!(false)),
            "{set}"
        );
        assert!(rig.pin("EVENTS").exists());
        let said = rig.run(&["unpin"]);
        let said = String::from_utf8(said.stdout).unwrap();
        assert_says(&said, &[&format!("respawn unpin {path}/v")]);
    });
    scene.assert_kept();
    scene.between_agents(|rig| {
        let (report, ok) = unpin(rig, &[&path]);
        assert!(ok, "{report}");
        assert!(!rig.pin_dir().exists());
    });
    // It is known by its file, and watched again.
    scene.assert_kept();
}

#[test]
fn pins_that_do_not_say_whose_they_are_are_removed_by_name_alone() {
    needs_root!("pins that do not say whose they are");
    let mut scene = Scene::new(Memory::Kernel);
    let path = scene.rig.pin_dir().display().to_string();
    // As an older version has left them; the next agent says it.
    scene.between_agents(|rig| fs::remove_file(rig.pin("HOLDER")).unwrap());
    assert!(scene.rig.pin("HOLDER").exists());
    scene.assert_kept();
    scene.agent.kill();
    fs::remove_file(scene.rig.pin("HOLDER")).unwrap();
    // The one directory that is looked at without being named by the pins.
    assert_eq!(
        of_rig(&scene.rig, &unpin(&scene.rig, &[]).0)["state"],
        "waiting"
    );
    scene.kill_web();
    fs::remove_dir_all(scene.rig.runtime_dir()).unwrap();
    let (report, ok) = unpin(&scene.rig, &["--all-dead", &path]);
    assert!(ok, "{report}");
    let set = of_rig(&scene.rig, &report);
    assert_eq!(
        (&set["state"], &set["removed"]),
        (&json!("unknown"), &json!(false)),
        "{set}"
    );
    let (report, ok) = unpin(&scene.rig, &[&path]);
    assert!(ok, "{report}");
    assert!(!scene.rig.pin_dir().exists());
}

#[test]
fn a_runtime_directory_that_went_with_its_mount_namespace_is_gone() {
    needs_root!("a runtime directory that went with its mount namespace");
    let rig = Rig::new();
    let runtime_dir = rig.runtime_dir();
    fs::create_dir(&runtime_dir).unwrap();
    rig.sleeper("web");
    let script = "mount -t tmpfs -o mode=755 container \"$RESPAWN_RUNTIME_DIR\" && exec \"$@\"";
    let inner = rig.agent_command();
    let mut outer = std::process::Command::new("unshare");
    outer.args(["--mount", "--propagation=private", "sh", "-c", script, "sh"]);
    outer.arg(inner.get_program()).args(inner.get_args());
    for (key, value) in inner.get_envs() {
        outer.env(key, value.unwrap());
    }
    let mut agent = support::rig::AgentProcess::from_command(outer.stdin(Stdio::null()));
    eventually("the service runs", || {
        (rig.live("web").len() == 1).then_some(())
    });
    let set = eventually("the pins say whose they are", || {
        let output = rig.run(&["unpin", "--json"]);
        let report: Value = serde_json::from_slice(&output.stdout).ok()?;
        let own = rig.pin_dir().display().to_string();
        let sets = report["sets"].as_array()?.iter();
        let mut own = sets.filter(|set| set["path"].as_str().unwrap().starts_with(&own));
        own.next()
            .filter(|set| set["runtime_dir"].is_string())
            .cloned()
    });
    assert_eq!(set["state"], "held", "{set}");
    agent.kill();
    // A service lives there still.
    let path = rig.pin_dir().display().to_string();
    let is_first = fs::read_link("/proc/self/ns/pid").unwrap() == Path::new("pid:[4026531836]");
    let state = |expected: &str| match is_first {
        true => expected.to_owned(),
        false => "unknown".to_owned(),
    };
    let set = of_rig(&rig, &unpin(&rig, &["--all-dead", &path]).0);
    assert_eq!(set["state"], state("waiting"), "{set}");
    for pid in rig.live("web") {
        signal_to(pid, Signal::SIGKILL);
    }
    // The directory of that path on this side of the namespace is another.
    assert!(runtime_dir.exists());
    eventually("the namespace is gone", || {
        let set = of_rig(&rig, &unpin(&rig, &[]).0);
        (set["state"] == state("dead")).then_some(())
    });
    let (report, ok) = unpin(&rig, &["--all-dead", &path]);
    assert!(ok, "{report}");
    assert_eq!(rig.pin_dir().exists(), !is_first);
}

#[test]
fn a_shutdown_leaves_no_pins_in_a_pin_directory_of_before() {
    needs_root!("pins in a pin directory of before");
    let mut scene = Scene::new(Memory::Kernel);
    let before = scene.rig.pin_dir().join("before");
    let now = scene.rig.pin_dir().join("now");
    for place in [&before, &now] {
        scene.between_agents(|rig| rig.set_pin_dir(place));
        scene.assert_kept();
    }
    assert!(before.exists() && now.exists());
    assert!(scene.rig.run(&["shutdown"]).status.success());
    scene.agent.ended();
    assert!(!before.exists() && !now.exists());
}
