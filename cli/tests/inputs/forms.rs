//! The forms in which people write a database: each is accepted by every setting that names one, or refused by all of
//! them with the same reason.

use lease_worker_common::database::Database;

use crate::table::{Row, refusal, rows};

/// The outcome of a form.
enum Form {
    /// Accepted, and shown so.
    Shown(&'static str),
    /// Refused, with this in the reason.
    Refused(&'static str),
}
use Form::{Refused, Shown};

/// With `hunter2` wherever a secret may stand.
const POSTGRES: &[(&str, Form)] = &[
    // Hosts.
    ("postgres://me:hunter2@db:5433/app", Shown("postgres://me@db:5433/app")),
    ("postgresql://me:hunter2@db/app", Shown("postgres://me@db:5432/app")),
    ("postgres://me:hunter2@db", Shown("postgres://me@db:5432/me")),
    ("postgres://me:hunter2@10.0.0.7/app", Shown("postgres://me@10.0.0.7:5432/app")),
    ("postgres://me:hunter2@[::1]:5433/app", Shown("postgres://me@[::1]:5433/app")),
    ("postgres://me:hunter2@[2001:db8::7]/app", Shown("postgres://me@[2001:db8::7]:5432/app")),
    ("postgres://me@%2Fvar%2Frun%2Fpg/app", Shown("postgres://me@/app?host=/var/run/pg&port=5432")),
    ("postgres://me@/app?host=/var/run/pg", Shown("postgres://me@/app?host=/var/run/pg&port=5432")),
    (
        "postgres://me@localhost/app?host=/cloudsql/a:b:c",
        Shown("postgres://me@/app?host=/cloudsql/a%3Ab%3Ac&port=5432"),
    ),
    ("postgres://me:hunter2@:5433/app?host=/pg", Shown("postgres://me@/app?host=/pg&port=5433")),
    ("postgres://:5433/app?host=db&user=me", Shown("postgres://me@db:5433/app")),
    ("postgres://?host=db&user=me", Shown("postgres://me@db:5432/me")),
    ("postgres://me@::1/app", Refused("invalid port")),
    ("postgres://me:hunter2@[::1/app", Refused("IPv6")),
    ("postgres://me:hunter2@a,b/app", Refused("several hosts")),
    ("postgres://me:hunter2@a:1,b:2/app", Refused("several hosts")),
    ("postgres://me:hunter2@/app?host=a,b", Refused("several hosts")),
    ("postgres://me:hunter2@$DB_HOST/app", Refused("host: use a name")),
    ("postgres://me:hunter2@db:port/app", Refused("invalid port")),
    ("postgres://me:hunter2@db:0/app", Refused("port: use 1 to 65535")),
    ("postgres://me:hunter2@db:99999/app", Refused("invalid port")),
    ("postgres://me:hunter2", Refused("invalid port")),
    // Users, passwords, databases.
    ("postgres://a%40b:hunter2%2F%3A@db/app%20x", Shown("postgres://a%40b@db:5432/app%20x")),
    ("postgres://me:hunter2%zz@db/app", Refused("must be written %25")),
    ("postgres://me:hunter2%@db/app", Refused("must be written %25")),
    ("postgres://me:hunter2%00@db/app", Refused("must be written %25")),
    ("postgres://me:hunter2%ff@db/app", Refused("UTF-8")),
    ("postgres://me:hunter2@x@db/app", Refused("must be written %40")),
    ("postgres://me:12/hunter2@db/app", Refused("must be written %40, %2F")),
    ("postgres://me:12?hunter2@db/app", Refused("must be written %40, %2F")),
    ("postgres://me:12#hunter2@db/app", Refused("must be written %40, %2F")),
    ("postgres://me@db/app#hunter2", Refused("must be written")),
    ("postgres://me:${PASSWORD}@db/app", Refused("a variable")),
    ("postgres://me:$(PASSWORD)@db/app", Refused("a variable")),
    ("postgres://me:{{password}}@db/app", Refused("a variable")),
    // Parameters that take effect.
    (
        "postgres:///?host=db&port=5433&user=me&password=hunter2&dbname=app",
        Shown("postgres://me@db:5433/app"),
    ),
    ("postgres://db/app?hostaddr=10.0.0.7&user=me", Refused("hostaddr: write the address")),
    ("postgres://me:hunter2@db/app?password=hunter2&user=you", Shown("postgres://you@db:5432/app")),
    ("postgres://me@db/app?sslmode=disable", Shown("postgres://me@db:5432/app")),
    ("postgres://me@db/app?sslmode=verify-full&sslrootcert=/ca.crt", Shown("postgres://me@db:5432/app")),
    ("postgres://me@db/app?sslmode=require&sslcert=/a&sslkey=/b", Shown("postgres://me@db:5432/app")),
    ("postgres://me@db/app?application_name=x&options=-cwork_mem%3D8MB", Shown("postgres://me@db:5432/app")),
    // Parameters that ask for what happens anyway.
    (
        "postgres://me@db/app?target_session_attrs=any&channel_binding=prefer&gssencmode=disable&sslnegotiation=postgres",
        Shown("postgres://me@db:5432/app"),
    ),
    // Those that would be ignored.
    ("postgres://me@db/app?sslmode=allow", Refused("sslmode: use disable")),
    ("postgres://me@db/app?sslmode=hunter2", Refused("sslmode: use disable")),
    ("postgres://me@db/app?sslrootcert=/ca.crt", Refused("sslrootcert: without sslmode=verify-full")),
    ("postgres://me@db/app?sslmode=require&sslrootcert=/ca.crt", Refused("sslrootcert: without")),
    ("postgres://me@db/app?sslmode=verify-full&sslrootcert=system", Refused("sslrootcert: leave it out")),
    ("postgres://me@db/app?sslcert=/a", Refused("sslcert and sslkey")),
    ("postgres://me@db/app?target_session_attrs=read-write", Refused("target_session_attrs: ")),
    ("postgres://me@db/app?channel_binding=require", Refused("channel_binding: ")),
    ("postgres://me@db/app?connect_timeout=10", Refused("connect_timeout: every call has a time limit")),
    ("postgres://me@db/app?sslnegotiation=direct", Refused("sslnegotiation: ")),
    ("postgres://me@db/app?passfile=/hunter2", Refused("PGPASSFILE")),
    ("postgres://me@db/app?service=hunter2", Refused("service: ")),
    ("postgres://me@db/app?sslpassword=hunter2", Refused("sslpassword: ")),
    ("postgres://me@db/app?keepalives_idle=30", Refused("keepalives_idle: ")),
    ("postgres://me@db/app?sslmod=require", Refused("did you mean sslmode?")),
    ("postgres://me@db/app?passwrd=hunter2", Refused("did you mean password?")),
    ("postgres://me@db/app?ssl-mode=require", Refused("did you mean sslmode?")),
    ("postgres://me@db/app?schema=hunter2", Refused("unknown name")),
    ("postgres://me@db/app?password=a&hunter2", Refused("has no value")),
    ("postgres://me@db/app?password=a&hunter2=b", Refused("unknown name")),
    ("postgres://me@db/app?sslmode=disable&sslmode=require", Refused("sslmode is given twice")),
    ("postgres://me@db/app?port=1,2", Refused("several hosts")),
    // What else came along.
    ("postgres://me:hunter2@db/app ", Refused("a space, a line break")),
    ("postgres://me:hun\nter2@db/app", Refused("a space, a line break")),
    ("postgres://me:hunter2@db/app'", Refused("a quote")),
];

/// No URL of PostgreSQL's.
const OTHERS: &[(&str, Form)] = &[
    ("sqlite:/a/b.sqlite", Shown("sqlite:/a/b.sqlite")),
    ("sqlite:///a/b.sqlite", Shown("sqlite:/a/b.sqlite")),
    ("sqlite:b.sqlite", Shown("sqlite:b.sqlite")),
    ("sqlite://b.sqlite", Shown("sqlite:b.sqlite")),
    ("sqlite:/my files/b@c=d.sqlite", Shown("sqlite:/my files/b@c=d.sqlite")),
    ("/a/b.sqlite", Shown("sqlite:/a/b.sqlite")),
    ("./b.sqlite", Shown("sqlite:./b.sqlite")),
    ("../b.sqlite", Shown("sqlite:../b.sqlite")),
    ("", Refused("no file is named")),
    ("sqlite:", Refused("no file is named")),
    ("sqlite://", Refused("no file is named")),
    ("hunter2", Refused("neither a URL nor an absolute path")),
    ("b.sqlite", Refused("neither a URL nor an absolute path")),
    ("me:hunter2@db/app", Refused("begins as a URL does")),
    ("sqlite://me:hunter2@db/app", Refused("begins as a URL does")),
    ("//me:hunter2@db/app", Refused("a URL that can't be used here")),
    (":hunter2@db", Refused("a URL that can't be used here")),
    ("host=db user=me password=hunter2", Refused("key=value")),
    ("host = db password = hunter2", Refused("key=value")),
    ("password=hunter2", Refused("key=value")),
    ("Server=db;Database=app;Password=hunter2", Refused("key=value")),
    ("DATABASE_URL=postgres://me:hunter2@db/app", Refused("key=value")),
    ("sqlite:password=hunter2", Refused("key=value")),
    ("sqlite://x?mode=rwc", Refused("a path has no parameters")),
    ("sqlite:/x?key=hunter2", Refused("a path has no parameters")),
    ("file:x?mode=memory", Refused("database in memory")),
    ("file:/x?key=hunter2", Refused("begins as a URL does")),
    ("sqlite:file:/x", Refused("begins as a URL does")),
    (":memory:", Refused("database in memory")),
    ("sqlite::memory:", Refused("database in memory")),
    ("$DATABASE_URL", Refused("a variable")),
    ("${DATABASE_URL}", Refused("a variable")),
    ("sqlite:$HOME/b.sqlite", Refused("a variable")),
    ("sqlite:~/b.sqlite", Refused("a variable")),
    ("{{ .Values.url }}", Refused("a variable")),
    ("C:\\data\\b.sqlite", Refused("begins as a URL does")),
    ("sqlite:data\\b.sqlite", Refused("without backslashes")),
    ("sqlite:/a%20b.sqlite", Refused("percent-encoded")),
    ("/a/b.sqlite\n", Refused("a line break or a space")),
    (" postgres://me:hunter2@db/app", Refused("a line break or a space")),
    ("\"postgres://me:hunter2@db/app\"", Refused("quotes")),
    ("mysql://me:hunter2@db/app", Refused("a URL that can't be used here")),
    ("http://me:hunter2@db/app", Refused("a URL that can't be used here")),
    ("jdbc:postgresql://db/app?user=me&password=hunter2", Refused("a URL that can't be used here")),
    ("postgresql+asyncpg://me:hunter2@db/app", Refused("a URL that can't be used here")),
    ("POSTGRES://me:hunter2@db/app", Refused("a URL that can't be used here")),
    ("postgres:me:hunter2@db", Refused("begins as a URL does")),
];

/// What the setting makes of a form: nothing if it is accepted, else its message.
fn asked(row: &Row, form: &str) -> Option<String> {
    let message = refusal(&["status"], &[(&row.env, form)])?;
    assert!(message.starts_with(&format!("{} = ", row.env)), "{form:?}: {message}");
    assert!(message.contains("use ") && !message.contains("hunter2"), "{form:?}: {message}");
    Some(message)
}

/// The settings that name a database, and whether each takes a file as well.
fn databases() -> Vec<(Row, bool)> {
    let rows: Vec<_> = rows().into_iter().filter(|row| row.kind == "database").collect();
    assert!(rows.len() >= 7, "{rows:?}");
    rows.into_iter()
        .map(|row| {
            let file = asked(&row, "sqlite:/x").is_none();
            (row, file)
        })
        .collect()
}

#[test]
fn each_form_of_a_databases_url_is_honoured_by_every_setting_or_refused_with_its_reason() {
    let databases = databases();
    assert!(databases.iter().any(|(_, file)| *file) && databases.iter().any(|(_, file)| !*file));
    for (forms, postgres) in [(POSTGRES, true), (OTHERS, false)] {
        for (form, expected) in forms {
            let read = form.parse::<Database>();
            match (expected, &read) {
                (Shown(shown), Ok(database)) => {
                    assert_eq!(
                        (database.to_string(), format!("{database:?}")),
                        ((*shown).into(), (*shown).into())
                    );
                }
                (Refused(reason), Err(why)) => {
                    assert!(why.contains(reason) && !why.contains("hunter2"), "{form:?}: {why}")
                }
                (_, read) => panic!("{form:?}: {read:?}"),
            }
            for (row, file) in &databases {
                let message = asked(row, form);
                match &read {
                    Ok(_) if postgres || *file => assert_eq!(message, None, "{form:?}"),
                    Ok(_) => assert!(message.is_some_and(|why| why.contains("postgres://")), "{form:?}"),
                    Err(why) if postgres || *file => {
                        let message = message.unwrap_or_else(|| panic!("{} accepts {form:?}", row.key));
                        assert!(message.ends_with(&format!(": {why}")), "{form:?}: {message}");
                    }
                    Err(_) => assert!(message.is_some(), "{} accepts {form:?}", row.key),
                }
            }
        }
    }
    println!("forms of a database's URL: {}, by {} settings", POSTGRES.len() + OTHERS.len(), databases.len());
}

/// A path is not a URL, and nothing else that would become a file of that name.
#[test]
fn the_lease_files_path_is_refused_where_it_is_no_path() {
    let rows = rows();
    let path = rows.iter().find(|row| row.key == "leaderElection.sqlite.path").expect("the lease file");
    for (form, expected) in OTHERS {
        let url = form.starts_with("sqlite:");
        let reason = match expected {
            Refused("neither a URL nor an absolute path") => None,
            Refused(_) if url => Some(""),
            Refused(reason) => Some(*reason),
            Shown(_) => url.then_some("give a plain path"),
        };
        match (asked(path, form), reason) {
            (None, None) => {}
            (Some(why), Some(reason)) if why.contains(reason) => {}
            (message, _) => panic!("{form:?}: {message:?}"),
        }
    }
    for (form, _) in POSTGRES {
        assert!(asked(path, form).is_some(), "{form:?} is accepted as a file's name");
    }
}

#[test]
fn libpqs_variables_are_held_to_the_same_rules() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let status = ["--mode", "postgres", "--postgres-url", "postgres://me@127.0.0.1:1/x", "config"];
    let plain = crate::table::run(&folder, &status, &[]);
    assert_eq!(plain.0, 0, "{plain:?}");
    for (variable, value, part) in [
        ("PGSSLMODE", "verify_full", "sslmode: use disable"),
        ("PGSSLROOTCERT", "/etc/ssl/ca.pem", "PGSSLROOTCERT: without sslmode=verify-full"),
        ("PGTARGETSESSIONATTRS", "read-write", "target_session_attrs: "),
        ("PGCHANNELBINDING", "require", "channel_binding: "),
        ("PGSERVICE", "hunter2", "service: "),
    ] {
        let (code, _, err) = crate::table::run(&folder, &status, &[(variable, value)]);
        assert_eq!(code, 2, "{variable}: {err}");
        assert!(err.contains(variable) && err.contains(part) && !err.contains("hunter2"), "{err}");
    }
    // What the URL says itself needs no variable.
    let said =
        ["--mode", "postgres", "--postgres-url", "postgres://me@127.0.0.1:1/x?sslmode=disable", "config"];
    assert_eq!(crate::table::run(&folder, &said, &[("PGSSLMODE", "verify_full")]).0, 0);
}
