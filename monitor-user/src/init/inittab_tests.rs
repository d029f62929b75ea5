use super::*;

const DEBIAN: &str = "\
# /etc/inittab: init(8) configuration.
id:2:initdefault:
si::sysinit:/etc/init.d/rcS
~~:S:wait:/sbin/sulogin --force
l2:2:wait:/etc/init.d/rc 2
z6:6:respawn:/sbin/sulogin --force
ca:12345:ctrlaltdel:/sbin/shutdown -t1 -a -r now
#kb::kbrequest:/bin/echo \"Keyboard Request\"
pf::powerwait:/etc/init.d/powerfail start
1:2345:respawn:/sbin/getty --noclear 38400 tty1
";

const OPENWRT: &str = "\
::sysinit:/etc/init.d/rcS S boot
::shutdown:/etc/init.d/rcS K shutdown
ttyS0::askfirst:/usr/libexec/login.sh
";

const BUSYBOX: &str = "\
::sysinit:/etc/init.d/rcS
::askfirst:-/bin/sh
tty2::askfirst:-/bin/sh
::ctrlaltdel:/sbin/reboot # says goodbye
::shutdown:/bin/umount -a -r
::restart:/sbin/init
";

const BLOCK: &str = "\
# respawn: begin (written by respawn install)
rs1:2345:respawn:/usr/sbin/respawn agent
rs2:2345:respawn:/usr/sbin/respawn agent
# respawn: end (written by respawn install)
";

fn ours() -> Vec<String> {
    BLOCK.lines().skip(1).take(2).map(str::to_owned).collect()
}

fn parse(text: &str, dialect: Dialect) -> Result<Inittab<'_>> {
    Inittab::parse(text.as_bytes(), dialect, Program::Agent)
}

fn refusal(text: &str, dialect: Dialect) -> String {
    format!("{:#}", parse(text, dialect).unwrap_err())
}

fn with_block(text: &str, dialect: Dialect) -> String {
    String::from_utf8(parse(text, dialect).unwrap().with_block(&ours())).unwrap()
}

#[test]
fn the_block_goes_to_the_end_and_leaves_every_other_byte() {
    let crlf = DEBIAN.replace('\n', "\r\n");
    let open = DEBIAN.trim_end();
    for (text, dialect, expected) in [
        ("", Dialect::Sysvinit, BLOCK.to_owned()),
        ("", Dialect::Busybox, BLOCK.to_owned()),
        ("\n", Dialect::Sysvinit, format!("\n{BLOCK}")),
        (DEBIAN, Dialect::Sysvinit, format!("{DEBIAN}{BLOCK}")),
        (OPENWRT, Dialect::Busybox, format!("{OPENWRT}{BLOCK}")),
        (BUSYBOX, Dialect::Busybox, format!("{BUSYBOX}{BLOCK}")),
        (&crlf, Dialect::Sysvinit, format!("{crlf}{BLOCK}")),
        (
            open,
            Dialect::Sysvinit,
            format!("{DEBIAN}{}", BLOCK.trim_end()),
        ),
        (
            "# \u{e9}\n",
            Dialect::Sysvinit,
            format!("# \u{e9}\n{BLOCK}"),
        ),
    ] {
        let installed = with_block(text, dialect);
        assert_eq!(installed, expected);
        // Twice is once, and what is removed leaves what there was.
        let again = parse(&installed, dialect).unwrap();
        assert!(again.is_installed());
        assert_eq!(again.with_block(&ours()), installed.as_bytes());
        assert_eq!(again.place.taken_out(), text.as_bytes());
    }
}

#[test]
fn bytes_that_are_no_text_stay() {
    let text = b"# \xff\xfe\nid:2:initdefault:\n";
    let inittab = Inittab::parse(text, Dialect::Sysvinit, Program::Agent).unwrap();
    let installed = inittab.with_block(&ours());
    assert!(installed.starts_with(text));
    let again = Inittab::parse(&installed, Dialect::Sysvinit, Program::Agent).unwrap();
    assert_eq!(again.place.taken_out(), text);
}

#[test]
fn a_block_is_replaced_where_it_is() {
    let old = BLOCK.replace("respawn agent", "respawn agent --config /old");
    for (before, after) in [
        (DEBIAN, ""),
        ("", DEBIAN),
        ("a:2:once:/x\n", "b:2:once:/y\n"),
    ] {
        let text = format!("{before}{old}{after}");
        assert_eq!(
            with_block(&text, Dialect::Sysvinit),
            format!("{before}{BLOCK}{after}")
        );
        let without = Block::find(text.as_bytes(), Program::Agent)
            .unwrap()
            .taken_out();
        assert_eq!(without, format!("{before}{after}").as_bytes());
    }
}

#[test]
fn a_damaged_block_is_refused() {
    let half = BLOCK.replace(Program::Agent.marks().end, "");
    assert!(refusal(&half, Dialect::Sysvinit).contains("without"));
    let headless = BLOCK.replace(Program::Agent.marks().begin, "");
    assert!(refusal(&headless, Dialect::Sysvinit).contains("line 4"));
    let twice = format!("{BLOCK}{BLOCK}");
    assert!(refusal(&twice, Dialect::Sysvinit).contains("line 5"));
}

#[test]
fn a_file_that_init_would_not_take_is_refused() {
    let long = format!("x:2:respawn:/{}\n", "x".repeat(127));
    for (text, expected) in [
        ("id:2:initdefault\n", "line 1: expected id:"),
        ("\n# x\nnonsense\n", "line 3: expected id:"),
        ("::respawn:/bin/sh\n", "is this --init busybox?"),
        ("toolong:2:respawn:/bin/sh\n", "at most 4"),
        ("x:2:respwan:/bin/sh\n", "no such action"),
        ("x:0123456789abS:once:/x\n", "at most 11"),
        (&long, "at most 127"),
        ("a:2:once:/x\nb:2:once:/x\na:3:once:/x\n", "lines 1 and 3"),
    ] {
        let refusal = refusal(text, Dialect::Sysvinit);
        assert!(refusal.contains(expected), "{text:?}: {refusal}");
    }
    for (text, expected) in [
        ("respawn:/bin/sh\n", "line 1: expected tty::"),
        ("::respawn\n", "line 1: expected tty::"),
        ("::respawn:\n", "no command"),
        ("::respawn:#/bin/sh\n", "no command"),
        ("::boot:/bin/sh\n", "no such action"),
        ("id:2:initdefault:\n", "--init sysvinit?"),
    ] {
        let refusal = refusal(text, Dialect::Busybox);
        assert!(refusal.contains(expected), "{text:?}: {refusal}");
    }
    assert!(refusal(OPENWRT, Dialect::Sysvinit).contains("busybox"));
    assert!(refusal(DEBIAN, Dialect::Busybox).contains("sysvinit"));
}

#[test]
fn lines_are_counted_across_our_block() {
    let text = format!("a:2:once:/x\n{BLOCK}bad\n");
    assert!(refusal(&text, Dialect::Sysvinit).contains("line 6:"));
}

#[test]
fn ids_are_free_ones_and_stay() {
    let ids = |text: &str, taken: &[&str]| {
        let taken: Vec<String> = taken.iter().map(ToString::to_string).collect();
        parse(text, Dialect::Sysvinit).unwrap().ids(2, &taken)
    };
    assert_eq!(ids("", &[]), ["rs1", "rs2"]);
    assert_eq!(ids(DEBIAN, &[]), ["rs1", "rs2"]);
    assert_eq!(ids("rs1:2:once:/x\n", &[]), ["rs2", "rs3"]);
    assert_eq!(ids("", &["rs1", "rs2"]), ["rs3", "rs4"]);
    let other = BLOCK.replace("rs1", "mine");
    assert_eq!(ids(&other, &[]), ["mine", "rs2"]);
    // Somebody has used one of ours since.
    assert_eq!(ids(&format!("{BLOCK}rs2:2:once:/x\n"), &[]), ["rs1", "rs3"]);
    let all: String = ('1'..='9')
        .chain('a'..='z')
        .map(|digit| format!("rs{digit}:2:once:/x\n"))
        .collect();
    assert_eq!(ids(&all, &[]), ["rsp1", "rsp2"]);
}

#[test]
fn the_block_tells_what_it_runs_and_whose_it_is() {
    let text = format!("{DEBIAN}{BLOCK}");
    let block = Block::find(text.as_bytes(), Program::Agent).unwrap();
    let command = "/usr/sbin/respawn agent".to_owned();
    assert_eq!(block.commands(), [command.clone(), command]);
    assert_eq!(block.dialect(), Some(Dialect::Sysvinit));
    let text = BLOCK.replace("rs1:2345", ":").replace("rs2:2345", ":");
    let block = Block::find(text.as_bytes(), Program::Agent).unwrap();
    assert_eq!(block.dialect(), Some(Dialect::Busybox));
    let none = Block::find(DEBIAN.as_bytes(), Program::Agent).unwrap();
    assert_eq!((none.dialect(), none.commands()), (None, vec![]));
}

#[test]
fn the_block_is_taken_out_of_a_file_that_is_bad_elsewhere() {
    let text = format!("nonsense\n{BLOCK}more\n");
    assert!(parse(&text, Dialect::Sysvinit).is_err());
    let block = Block::find(text.as_bytes(), Program::Agent).unwrap();
    assert_eq!(block.taken_out(), b"nonsense\nmore\n");
}
