//! What people see on a terminal: `script` gives the binary one, of 8 rows and 60 columns.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use crate::common::Leasehold;
use crate::store::{LIMIT, Store};

const LEASE: &str = "outbox-forwarder";

struct Terminal {
    script: Child,
    shown: String,
}

impl Terminal {
    fn start(store: &Store, args: &str, more: &[(&str, &str)]) -> Self {
        let run = format!("stty rows 8 cols 60; exec {} {args}", Leasehold::binary().display());
        let mut command = Command::new("script");
        command.args(["--quiet", "--flush", "--return", "--command", &run, "/dev/null"]).env_clear();
        command.envs(store.cli.environment()).env("TERM", "xterm").envs(more.iter().copied());
        command.current_dir(store.cli.folder.path()).kill_on_drop(true);
        let script =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("script (util-linux) starts");
        Self { script, shown: String::new() }
    }

    /// Reads on until `enough`.
    async fn until(&mut self, what: &str, enough: impl Fn(&str) -> bool) {
        let out = self.script.stdout.as_mut().expect("its output");
        let reading = async {
            let mut bytes = [0; 4096];
            while !enough(&self.shown) {
                match out.read(&mut bytes).await.expect("a read") {
                    0 => return,
                    count => self.shown += &String::from_utf8_lossy(&bytes[..count]),
                }
            }
        };
        let in_time = tokio::time::timeout(LIMIT, reading).await.is_ok();
        assert!(in_time && enough(&self.shown), "no {what} in {:?}", self.shown);
    }

    /// All that it shows until it ends by itself.
    async fn whole(mut self) -> String {
        let out = self.script.stdout.as_mut().expect("its output");
        let reading = out.read_to_string(&mut self.shown);
        tokio::time::timeout(LIMIT, reading).await.expect("it ends").expect("it is read");
        self.shown
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_has_colour_on_a_terminal_unless_no_color_is_set() {
    let store = Store::sqlite().await;
    store.run(&["init", "--new", LEASE]).await.ok();
    let coloured = Terminal::start(&store, "status -o table", &[]).whole().await;
    assert!(coloured.contains("\u{1b}[1mLEASE") && coloured.contains("free"), "{coloured:?}");
    let plain = Terminal::start(&store, "status -o table", &[("NO_COLOR", "1")]).whole().await;
    assert!(plain.contains("free") && !plain.contains('\u{1b}'), "{plain:?}");
    let asked = Terminal::start(&store, "status --color=never -o table", &[]).whole().await;
    assert!(asked.contains("free") && !asked.contains('\u{1b}'), "{asked:?}");
}

/// Each drawing goes up as many lines as the one before it has, and replaces each of them to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watched_table_is_redrawn_in_place_and_fits_the_terminal() {
    let store = Store::sqlite().await;
    store.run(&["init", "--new", LEASE, "another"]).await.ok();
    let mut terminal = Terminal::start(&store, "status --watch", &[("NO_COLOR", "1")]);
    terminal.until("table", |shown| shown.contains(LEASE) && shown.contains("\u{1b}[J")).await;
    store
        .silent_holder("a-pod-with-a-name-that-is-longer-than-the-terminal-is-wide", Duration::from_secs(600))
        .await;
    let is_new = |shown: &str| shown.split("held").nth(1).is_some_and(|rest| rest.contains("\u{1b}[J"));
    terminal.until("new table", is_new).await;
    let drawn: Vec<_> =
        terminal.shown.split_inclusive("\u{1b}[J").filter(|drawing| drawing.ends_with("\u{1b}[J")).collect();
    for (at, drawing) in drawn.iter().enumerate() {
        let lines = drawing.strip_suffix("\u{1b}[J").expect("an end");
        let lines = if at == 0 { Some(lines) } else { lines.strip_prefix("\r\u{1b}[3A") };
        let lines: Vec<_> = lines.expect("it goes to the first line").split_terminator("\r\n").collect();
        assert_eq!(lines.len(), 3, "{drawing:?}");
        for line in lines {
            let text = line.strip_suffix("\u{1b}[K").expect("it clears what was there");
            assert!(text.chars().count() <= 60 && !text.contains('\u{1b}'), "{text:?}");
        }
    }
    assert!(
        drawn.len() > 1 && drawn[0].contains("free") && drawn[drawn.len() - 1].contains("held"),
        "{drawn:?}"
    );

    let names: Vec<_> = (0..9).map(|number| format!("more-{number}")).collect();
    store
        .run(&[&["init", "--new"][..], &names.iter().map(String::as_str).collect::<Vec<_>>()].concat())
        .await
        .ok();
    terminal.until("line that counts", |shown| shown.contains("… and 7 more: name a prefix")).await;
}
