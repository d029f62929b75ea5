//! The model by what comes in and what is wanted; the view by what is on the screen.

use std::time::Duration;

use jiff::tz::TimeZone;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier};
use serde_json::{Value, json};

use super::look::Look;
use super::model::{Absence, HostExit, Input, Model, Moment, Order, Verb, Wish};
use super::view::View;
use crate::control::ServiceStatus;
use crate::journal::JournalLine;
use crate::model::Exited;
use crate::model::{Cause, Desired, State};

const PLAIN: Look = Look {
    colour: false,
    attributes: false,
    unicode: true,
};

fn at(seconds: u64) -> Moment {
    let wall = "2026-01-01T12:00:00Z".parse::<jiff::Timestamp>().unwrap();
    Moment {
        since_boot: Duration::from_secs(seconds),
        wall: wall + Duration::from_secs(seconds),
    }
}

fn status(service: &str, state: State) -> ServiceStatus {
    let runs = state == State::Running;
    ServiceStatus {
        step: None,
        service: service.to_owned(),
        state,
        desired: Desired::Up,
        pid: runs.then_some(1234),
        start_time_ns: runs.then_some(10_000_000),
        uptime_ns: runs.then_some(5_000_000_000),
        restarts: 0,
        last_exit: None,
        last_exit_time: None,
        next_start_in_ns: None,
        waits_for: Vec::new(),
        error: None,
        hint: None,
        says: None,
        sockets: Vec::new(),
        stored: Vec::new(),
        released_ns: None,
        standby: None,
        autostart: None,
    }
}

fn line(event: &Value) -> Input {
    Input::Happened(Box::new(JournalLine::parse(event.to_string()).unwrap()))
}

fn died(service: &str, time: &str, pid: u32) -> Input {
    line(
        &json!({"event": "exited", "service": service, "time": time, "pid": pid,
        "start_time_ns": 7, "comm": "sh\u{1b}]0;", "uptime_ns": 2_000_000_000_u64,
        "cause": {"kind": "signaled", "code": null, "signal": "SIGKILL", "core_dumped": false,
                  "sender": null}}),
    )
}

fn exited(pid: u32, comm: &str) -> Input {
    exited_of(pid, comm, None)
}

fn exited_of(pid: u32, comm: &str, owner: Option<&str>) -> Input {
    let mut exited = Exited::unknown(at(0).wall, pid);
    exited.exit.start_time_ns = Some(7);
    exited.exit.comm = Some(comm.to_owned());
    exited.exit.uptime_ns = Some(1_500_000);
    exited.exit.cause = Cause::Exited { code: 1 };
    let owner = owner.map(str::to_owned);
    Input::Exited(Box::new(HostExit { exited, owner }))
}

fn key(code: KeyCode) -> Input {
    Input::Key(KeyEvent::new(code, KeyModifiers::NONE))
}

fn press(model: &mut Model, keys: &str) -> Option<Wish> {
    let mut wish = None;
    for c in keys.chars() {
        wish = model.take(key(KeyCode::Char(c)), at(0));
    }
    wish
}

fn control(c: char) -> Input {
    Input::Key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL))
}

fn order(verb: Verb, service: &str) -> Order {
    let service = service.to_owned();
    Order { verb, service }
}

/// A model of these services.
fn model(services: Vec<ServiceStatus>) -> Model {
    let mut model = Model::new();
    model.take(Input::JournalOpened, at(0));
    model.take(Input::Statuses(services), at(0));
    model
}

fn three() -> Model {
    model(
        ["a", "b", "c"]
            .map(|name| status(name, State::Running))
            .into(),
    )
}

fn picture(model: &Model, look: Look, columns: u16, rows: u16, now: Moment) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    let view = View {
        model,
        look,
        zone: &TimeZone::UTC,
        now,
    };
    terminal
        .draw(|frame| view.draw(frame.buffer_mut()))
        .unwrap();
    terminal.backend().buffer().clone()
}

/// Its lines without what is blank at their ends.
fn lines(picture: &Buffer) -> Vec<String> {
    let width = usize::from(picture.area.width);
    let rows = picture.content().chunks(width);
    rows.map(|row| {
        let row: String = row.iter().map(|cell| cell.symbol()).collect();
        row.trim_end().to_owned()
    })
    .collect()
}

fn screen(model: &Model) -> Vec<String> {
    lines(&picture(model, PLAIN, 80, 24, at(0)))
}

#[test]
fn an_order_is_given_at_once_or_after_a_yes() {
    let mut model = three();
    assert_eq!(
        press(&mut model, "s"),
        Some(Wish::Do(order(Verb::Start, "a")))
    );
    assert_eq!(press(&mut model, "jx"), None);
    assert_eq!(screen(&model)[23], "stop b? y/n");
    assert_eq!(
        press(&mut model, "y"),
        Some(Wish::Do(order(Verb::Stop, "b")))
    );
    assert_eq!(screen(&model)[23], "stop b: under way");
    // Anything but yes is no, and does nothing else.
    assert_eq!(press(&mut model, "jrq"), None);
    assert_eq!(press(&mut model, "y"), None);
    assert_eq!(
        press(&mut model, "ry"),
        Some(Wish::Do(order(Verb::Restart, "c")))
    );
    let failed = Input::Done(order(Verb::Restart, "c"), Err("overtaken\u{1b}".to_owned()));
    assert_eq!(model.take(failed, at(0)), Some(Wish::Look));
    assert_eq!(screen(&model)[23], "restart c: overtaken\\u{1b}");
    press(&mut model, "k");
    assert!(screen(&model)[23].starts_with("q quit"));
}

#[test]
fn without_services_there_is_nothing_to_order() {
    let mut model = model(Vec::new());
    for keys in ["s", "x", "y", "r", "y", "j", "k", "w"] {
        assert_eq!(press(&mut model, keys), None, "{keys}");
        screen(&model);
    }
    assert_eq!(screen(&model)[2], "  no services are configured");
}

#[test]
fn the_end_and_the_like_are_wished_for() {
    let mut model = three();
    assert_eq!(press(&mut model, "q"), Some(Wish::Quit));
    for (c, wish) in [
        ('c', Wish::Quit),
        ('z', Wish::Suspend),
        ('l', Wish::Repaint),
    ] {
        // A question does not stand in their way.
        press(&mut model, "x");
        assert_eq!(model.take(control(c), at(0)), Some(wish));
    }
}

#[test]
fn escape_and_a_key_at_once_are_both_taken() {
    let mut model = three();
    press(&mut model, "?x");
    let alt_y = KeyEvent::new(KeyCode::Char('y'), KeyModifiers::ALT);
    assert_eq!(model.take(Input::Key(alt_y), at(0)), None);
    assert!(screen(&model)[6].contains("exits of this host"));
    let alt_q = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::ALT);
    assert_eq!(model.take(Input::Key(alt_q), at(0)), Some(Wish::Quit));
}

#[test]
fn what_is_selected_stays_so() {
    let mut model = three();
    press(&mut model, "j");
    let more = ["0", "a", "b", "c"].map(|name| status(name, State::Running));
    model.take(Input::Statuses(more.into()), at(0));
    assert_eq!(model.selected(), 2);
    model.take(Input::Statuses(vec![status("z", State::Stopped)]), at(0));
    assert_eq!(model.selected(), 0);
    model.take(key(KeyCode::End), at(0));
    model.take(key(KeyCode::Down), at(0));
    assert_eq!(model.selected(), 0);
}

#[test]
fn what_happens_is_a_reason_to_look() {
    let mut model = three();
    let started = line(&json!({"event": "agent_started", "pid": 77}));
    assert_eq!(model.take(started, at(0)), Some(Wish::Look));
    assert!(screen(&model)[0].contains("agent 77   3 services: 3 running"));
    assert_eq!(model.take(exited(1, "x"), at(0)), None);
}

#[test]
fn without_an_agent_the_last_known_is_shown_and_does_not_age() {
    let mut model = three();
    assert!(model.ages());
    model.take(Input::Unanswered(Absence::NoAgent), at(3));
    assert!(!model.ages());
    let shown = screen(&model);
    assert_eq!(
        shown[0],
        "respawn top   no agent (waiting)   last told: 3 services: 3 running"
    );
    assert_eq!(
        shown[2],
        "> a       running     1234       -        0                      -"
    );
    let why = Absence::Other("not allowed".to_owned());
    model.take(Input::Unanswered(why), at(3));
    assert!(screen(&model)[0].contains("not allowed"));
    model.take(Input::Statuses(vec![status("a", State::Running)]), at(4));
    assert!(screen(&model)[0].contains("1 service: 1 running"));
}

#[test]
fn the_whole_screen() {
    let mut model = model(vec![
        ServiceStatus {
            restarts: 12,
            last_exit: Some(Cause::from_wait_status(9)),
            ..status("frontend-with-a-long-name", State::Running)
        },
        ServiceStatus {
            restarts: 1,
            last_exit: Some(Cause::from_wait_status(256)),
            next_start_in_ns: Some(3_200_000_000),
            error: Some("cannot run /x: No such file or directory (exec)".to_owned()),
            ..status("gone", State::Backoff)
        },
        status("off", State::Stopped),
    ]);
    model.take(line(&json!({"event": "agent_started", "pid": 77})), at(0));
    for (time, count) in [("2026-01-01T11:01:00Z", 9), ("2026-01-01T11:59:00Z", 2)] {
        for _ in 0..count {
            let event = json!({"event": "started", "time": time, "restarts": 1, "service": "gone"});
            model.take(line(&event), at(0));
        }
    }
    model.take(
        died("frontend-with-a-long-name", "2026-01-01T11:56:48Z", 9),
        at(0),
    );
    model.take(exited(9, "evil\u{1b}[2J"), at(0));
    model.take(exited(10, "true"), at(0));
    model.take(Input::Lost(3), at(0));
    press(&mut model, "j");
    let expected = "\
respawn top   agent 77   3 services: 1 running, 1 backoff, 1 stopped
  SERVICE      STATE        PID  UPTIME RESTARTS IN THE LAST HOUR     LAST EXIT
  frontend-wi… running     1234      5s       12                      SIGKILL
> gone         backoff        -       -        1 █                  ▂ exit 1
  off          stopped        -       -        0                      -
  gone: next start in 3.20s; last failure: cannot run /x: No such file or direc…
── exits of this host, 3 lost ──────────────────────────────────────────────────
  TIME              PID  COMM                LIVED  CAUSE
  12:00:00.000        9  evil\\u{1b}[2J       1.5ms  exited with 1 [frontend-wit…
  12:00:00.000       10  true                1.5ms  exited with 1";
    assert_eq!(screen(&model)[..10].join("\n"), expected);
    press(&mut model, "kw");
    let shown = screen(&model);
    assert_eq!(
        shown[5],
        "  frontend-with-a-long-name: last: killed by SIGKILL, 3m12s ago"
    );
    assert_eq!(
        shown[7],
        "  11:56:48.000  killed by SIGKILL after 2.00s, pid 9"
    );
    press(&mut model, "ee");
    assert!(screen(&model)[6].contains("exits of services"));
    let exit = "  11:56:48.000        9  sh\\u{1b}]0;         2.00s  killed by SIGKILL [frontend…";
    assert_eq!(screen(&model)[8], exit);
    // Wider, there are words for all.
    let wide = lines(&picture(&model, PLAIN, 200, 50, at(60)));
    assert!(wide[2].contains(" 1m05s "), "{}", wide[2]);
    assert!(
        wide[2].ends_with("killed by SIGKILL, 4m12s ago"),
        "{}",
        wide[2]
    );
}

#[test]
fn without_ebpf_the_exits_of_services_are_left() {
    let mut model = three();
    model.take(Input::Blind("no right\nto it".to_owned()), at(0));
    model.take(died("a", "2026-01-01T11:00:00Z", 5), at(0));
    let shown = screen(&model);
    assert_eq!(shown[7], "  without eBPF: no right\\nto it");
    assert!(shown[9].ends_with("killed by SIGKILL [a]"), "{}", shown[9]);
}

#[test]
fn an_exit_of_the_host_has_its_unit_or_container_unless_it_is_a_services() {
    let mut model = three();
    model.take(exited_of(8, "nginx", Some("nginx.service")), at(0));
    model.take(exited_of(9, "sh", Some("docker 4f797c539e6c")), at(0));
    model.take(exited_of(10, "sh", None), at(0));
    model.take(exited_of(5, "sh", Some("of another")), at(0));
    model.take(died("a", "2026-01-01T11:00:00Z", 5), at(0));
    let shown = lines(&picture(&model, PLAIN, 120, 24, at(0)));
    let ends: Vec<&str> = shown[8..12]
        .iter()
        .map(|line| line.split_once("exited with 1").unwrap().1)
        .collect();
    assert_eq!(
        ends,
        [" [nginx.service]", " [docker 4f797c539e6c]", "", " [a]"]
    );
}

#[test]
fn a_journal_that_is_opened_again_counts_once() {
    let mut model = three();
    for _ in 0..2 {
        model.take(Input::JournalOpened, at(0));
        model.take(died("a", "2026-01-01T11:00:00Z", 5), at(0));
    }
    assert_eq!(model.service_exits.len(), 1);
    model.take(Input::JournalClosed("no journal".to_owned()), at(0));
    press(&mut model, "e");
    assert_eq!(screen(&model)[7], "  no journal");
}

#[test]
fn the_selected_service_is_in_sight_whatever_the_size() {
    let names: Vec<String> = (0..100).map(|n| format!("service-{n:03}")).collect();
    let services = names.iter().map(|name| status(name, State::Running));
    let mut model = model(services.collect());
    for _ in 0..100 {
        for (columns, rows) in [(80, 24), (200, 50), (40, 8), (20, 7)] {
            let shown = lines(&picture(&model, PLAIN, columns, rows, at(0)));
            let selected = &names[model.selected()];
            let marked = shown.iter().find(|line| line.starts_with('>'));
            assert!(marked.unwrap().contains(selected), "{shown:?}");
        }
        model.take(key(KeyCode::Down), at(0));
    }
    // Too small for anything: no panic.
    for columns in 1..30 {
        for rows in 1..12 {
            for pane in ["", "w", "?", "x"] {
                press(&mut model, pane);
                picture(&model, PLAIN, columns, rows, at(0));
                model.take(key(KeyCode::Esc), at(0));
            }
        }
    }
}

#[test]
fn a_poor_terminal_gets_plain_ascii() {
    let mut model = three();
    model.take(exited(1, "naïve"), at(0));
    let event = json!({"event": "started", "time": at(0).wall, "restarts": 1, "service": "a"});
    model.take(line(&event), at(0));
    let poor = Look {
        unicode: false,
        ..PLAIN
    };
    let plain = picture(&model, poor, 80, 24, at(0));
    let unstyled = Buffer::empty(plain.area).content()[0].style();
    assert!(plain.content().iter().all(|cell| cell.style() == unstyled));
    assert!(lines(&plain).concat().is_ascii());
    let rich = Look {
        colour: true,
        attributes: true,
        unicode: true,
    };
    let rich = picture(&model, rich, 80, 24, at(0));
    let cells = rich.content();
    assert!(cells.iter().any(|cell| cell.fg == Color::Green));
    assert!(
        cells
            .iter()
            .any(|cell| cell.modifier.contains(Modifier::BOLD))
    );
}
