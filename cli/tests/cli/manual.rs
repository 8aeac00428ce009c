//! Completions that a shell takes, man pages that `man` shows.

use std::process::{Command, Stdio};

use crate::common::Leasehold;

/// What bash would offer for the words so far, the last of which is to be completed.
fn offered(script: &str, words: &[&str]) -> Vec<String> {
    let (last, before) = words.split_last().expect("a word");
    let previous = before.last().expect("the program");
    let ask = format!(
        "source /dev/stdin || exit 3; COMP_WORDS=({}); COMP_CWORD={}; _leasehold leasehold '{last}' '{previous}'; \
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words.join(" "),
        before.len()
    );
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("leasehold.bash");
    std::fs::write(&file, script).expect("written");
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", &ask]).stdin(std::fs::File::open(&file).expect("a script"));
    let done = bash.stderr(Stdio::piped()).output().expect("bash");
    assert!(done.status.success() && done.stderr.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_their_flags_and_those_of_the_settings() {
    // Bad settings of a user's shell must not break its start.
    let leasehold = Leasehold::bare().with("LEASEHOLD_LOG_FORMAT", "nonsense").with("LEASEHOLD_NO_SUCH", "1");
    let ran = leasehold.run(&["completions", "bash"]);
    let script = ran.ok();
    for (words, expected) in [
        (&["leasehold", "sta"][..], &["status"][..]),
        (&["leasehold", "status", "--wa"], &["--watch"]),
        (&["leasehold", "status", "-o", ""], &["table", "wide", "json"]),
        (&["leasehold", "status", "--sqlite-p"], &["--sqlite-path"]),
        (&["leasehold", "worker", "outbox"], &["outbox-forwarder"]),
        (&["leasehold", "fence", "r"], &["raise"]),
    ] {
        let offered = offered(script, words);
        assert!(
            expected.iter().all(|word| offered.iter().any(|offer| offer == word)),
            "{words:?}: {offered:?}"
        );
        assert!(offered.len() < 10, "{words:?}: {offered:?}");
    }
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let ran = leasehold.run(&["completions", shell]);
        assert!(ran.ok().contains("step-down"), "{shell}");
    }
    let refused = leasehold.run(&["completions", "cmd"]);
    assert!(refused.code == 2 && refused.err.contains("bash, elvish, fish"), "{}", refused.err);
}

#[test]
fn each_command_has_a_man_page_that_renders_and_the_first_has_the_settings() {
    let leasehold = Leasehold::bare().with("LEASEHOLD_LOG_FORMAT", "nonsense");
    leasehold.run(&["man", "pages"]).ok();
    let folder = leasehold.folder.path().join("pages");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let page = std::fs::read_to_string(&path).expect("a page");
        for part in [".TH leasehold", ".SH NAME", ".SH SYNOPSIS", ".SH OPTIONS"] {
            assert!(page.contains(part), "{name} lacks {part}");
        }
        let macros = page.lines().filter_map(|line| line.strip_prefix('.'));
        let known = |line: &str| {
            ["TH", "SH", "SS", "TP", "RS", "RE", "PP", "sp", "br", "ie", "el", "IP"]
                .iter()
                .any(|name| line.starts_with(name))
        };
        assert!(macros.clone().count() > 5 && macros.clone().all(known), "{name}: {page}");
        let settings = page.contains("SPENDGUARD_LEADER_LEASE_TTL_MS");
        assert_eq!(settings, name == "leasehold.1", "{name}: the settings are on the first page alone");
        assert!(!page.contains("\n\n.TP"), "{name}: a flag without a word about it");
        // A typesetter's word counts, wherever there is one.
        if let Ok(done) = Command::new("groff").args(["-Kutf8", "-man", "-Tutf8", "-ww"]).arg(&path).output()
        {
            let said = String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success() && said.is_empty() && done.stdout.len() > 300, "{name}: {said}");
        }
        names.push(name);
    }
    for name in ["leasehold.1", "leasehold-status.1", "leasehold-fence-raise.1", "leasehold-worker-ledger.1"]
    {
        assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
    }
    assert!(names.len() > 20, "{names:?}");
    let page = leasehold.run(&["man"]);
    assert_eq!(page.ok(), std::fs::read_to_string(folder.join("leasehold.1")).expect("a page"));
    leasehold.file("taken", "");
    leasehold.run(&["man", "taken/x"]).failed(&["man pages can't be written", "taken/x"]);
}
