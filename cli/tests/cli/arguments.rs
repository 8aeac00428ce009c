//! Malformed arguments are refused before anything starts, with tips that fit their command.

use crate::common::Leasehold;

#[test]
fn refuses_malformed_arguments() {
    let leasehold = Leasehold::sqlite();
    for (args, part) in [
        (&["init", "Not A Name"][..], "a-z"),
        (&["init", "a", "--above=-1"], "-1"),
        (&["init", "a", "--above", "9223372036854775807"], "9223372036854775807"),
        (&["init", "a", "--above", "2305843009213693953"], "2305843009213693952"),
        (&["fence", "raise", "a", "--above", "2305843009213693953"], "2305843009213693952"),
        (&["fence", "raise", "a"], "--above"),
        (&["restored", "--above=-1"], "-1"),
        (&["restored", "--above", "2305843009213693953"], "2305843009213693952"),
        (&["restored", "--note", "two\nlines"], "--note"),
        (&["fence", "lower", "a", "--resource", "r", "--note", "two\nlines"], "--note"),
        (&["fence", "lower", "a"], "--resource"),
        (&["fence", "lower", "a", "--resource", "r"], "LEASEHOLD_FENCE_DATABASE_URL"),
        (&["fence", "lower", "a", "--resource", "r", "--to", "-1"], "--to"),
        (&["revoke", "a", "--for", "8d"], "168h"),
        (&["revoke", "a", "--for", "169h"], "168h"),
        (&["revoke", "a", "--except", ""], "1 to 253"),
        (&["history", "a", "--limit", "0"], "1..=100000"),
        (&["step-down", "a", "--wait", "30"], "30s"),
        (&["step-down", "a", "--wait", "-1s"], "--wait"),
        (&["statsu"], "status"),
        (&["status", "--jsno"], "--json"),
        (&["run", "--lease", "a"], "CMD"),
    ] {
        let refused = leasehold.run(args);
        assert_eq!(refused.code, 2, "{args:?}: {}", refused.err);
        assert!(refused.err.contains(part), "{args:?}: {part:?} is missing in: {}", refused.err);
    }
    assert_eq!(leasehold.files(), Vec::<String>::new());
}

#[test]
fn tips_name_flags_of_the_command_or_what_can_hardly_be_anything_else() {
    let leasehold = Leasehold::sqlite();
    for (args, tip) in [
        (&["status", "--wach"][..], Some("--watch")),
        (&["status", "--jsno"], Some("--json")),
        (&["status", "--ouptut", "wide"], Some("--output")),
        (&["status", "--tiemout=5s"], Some("--timeout")),
        (&["status", "--sqlite-pth=x"], Some("--sqlite-path")),
        (&["history", "a", "--watch"], None),
        (&["history", "a", "--lmit=5"], Some("--limit")),
        (&["step-down", "a", "--wiat", "5s"], Some("--wait")),
        (&["revoke", "a", "--holder-is-daed"], Some("--holder-is-dead")),
        (&["worker", "outbox-forwarder", "--migrte"], Some("--migrate")),
        (&["init", "--nwe"], Some("--new")),
        (&["--confg=x", "status"], Some("--config")),
        (&["status", "--verbose"], None),
    ] {
        let refused = leasehold.run(args);
        assert_eq!(refused.code, 2, "{args:?}: {}", refused.err);
        let told = refused.err.split_once("a similar argument exists: '").map(|(_, rest)| rest);
        let told = told.and_then(|rest| rest.split_once('\'')).map(|(tip, _)| tip);
        assert_eq!(told, tip, "{args:?}: {}", refused.err);
        assert!(!refused.err.contains("as a value"), "{args:?}: {}", refused.err);
        assert!(!refused.err.contains("sweeper"), "{args:?}: {}", refused.err);
    }
    assert_eq!(leasehold.files(), Vec::<String>::new());
}
