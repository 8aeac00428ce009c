//! Every setting, of every wrong kind, in every place where it can be set: exit code 2 and one message that names it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use rand::distr::{Alphanumeric, SampleString};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

use crate::table::{Row, for_each, refusal, rows, run};

const SEED: u64 = 15;
/// Generated values beside the known ones, for each setting and place.
const GENERATED: usize = 5;

/// One setting with a value that it can't have.
struct Case {
    row: Row,
    /// `env`, `flag` or `file`.
    place: &'static str,
    /// A text; in the file a literal.
    value: String,
    /// Part of the value that nobody may read.
    secret: String,
}

fn word(random: &mut StdRng, length: usize) -> String {
    Alphanumeric.sample_string(random, length)
}

/// Texts that a variable or a flag must not have.
fn texts(row: &Row, flag: bool, secret: &str, random: &mut StdRng) -> Vec<String> {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let letters = |random: &mut StdRng| format!("x{}", word(random, 6));
    let any: fn(&mut StdRng) -> String = match row.kind.as_str() {
        "integer" => |random| match random.random_range(0..4) {
            0 => format!(
                "{}{}",
                random.random::<u16>(),
                ["s", "ms", "k", ",0", "_", "%"][random.random_range(0..6)]
            ),
            1 => format!("{}.{}", random.random::<u16>(), random.random::<u8>()),
            2 => format!("{}{}", i64::MAX, random.random::<u16>()),
            _ => format!(" {}", random.random::<u16>()),
        },
        "millis" => |random| match random.random_range(0..4) {
            0 => format!(
                "{}{}",
                random.random::<u16>(),
                ["d", "y", "us", "S", "M", " s"][random.random_range(0..6)]
            ),
            1 => format!("{}.{}s", random.random::<u16>(), random.random::<u8>()),
            2 => format!("{}h", i64::MAX),
            _ => format!("-{}s", random.random::<u8>()),
        },
        "address" => |random| match random.random_range(0..4) {
            0 => word(random, 9),
            1 => format!("{}:{}", word(random, 5), 65_536 + random.random_range(0..99_999)),
            2 => format!(":{}", random.random::<u16>()),
            _ => format!("{} :80", word(random, 4)),
        },
        _ => |random| {
            format!("{}{}{}", word(random, 4), random.random_range('\u{1}'..'\u{9}'), word(random, 4))
        },
    };
    let mut texts = match row.kind.as_str() {
        "integer" => owned(&[
            "",
            "abc",
            "-9223372036854775809",
            "1.5",
            "99999999999999999999",
            " 5",
            "0x10",
            "1e3",
            "5s",
        ]),
        "millis" if flag => {
            owned(&["", "abc", "15", "-1s", "1.5s", "99999999999999999h", "15 s", "2d", "9999h"])
        }
        "millis" => owned(&["", "abc", "-1", "1.5", "99999999999999999999", "15s", " 5", "86400001"]),
        "bool" | "one_of" => owned(&["", "maybe", "1", "TRUE", "yes", " true", "HUMAN"]),
        "path" => owned(&["", "a\nb"]),
        "text" => Vec::new(),
        "address" => owned(&["localhost", "localhost:", "localhost:99999", "a b:80", "::1:80x"]),
        "database" | "url" | "endpoints" => {
            owned(&["", "nonsense", "://", "http:", "postgres:nonsense", "[::1", "a,b"])
        }
        "checked" => owned(&["a\u{1}b"]),
        other => panic!("a kind without nonsense: {other}"),
    };
    if ["database", "url", "endpoints"].contains(&row.kind.as_str()) {
        texts.extend([
            format!("ftp://u:{secret}@host/x"),
            format!("postgres://u:{secret}@host:port/x"),
            format!("://h?{secret}"),
            format!("host=h password={secret}"),
            format!("http://u:{secret}@h:99999"),
        ]);
    }
    if ["text", "checked", "path"].contains(&row.kind.as_str()) {
        texts.push(format!("postgres://u:{secret}@h/x\u{1}"));
        texts.push(format!("host=h password={secret}\n"));
    }
    for _ in 0..GENERATED {
        texts.push(match row.kind.as_str() {
            "bool" | "one_of" => letters(random),
            _ => any(random),
        });
    }
    texts
}

/// Literals that the file must not have.
fn literals(row: &Row, secret: &str, random: &mut StdRng) -> Vec<String> {
    let number = random.random_range(1_000_000_000..i64::MAX);
    let mut literals = match row.kind.as_str() {
        "integer" | "millis" => {
            vec!["\"15000\"", "-1.0", "1.5", "true", "[5]", "{ a = 1 }", "9223372036854775807"]
        }
        "bool" => vec!["\"true\"", "1", "[]", "{ a = true }", "1.5", "1979-05-27"],
        _ => vec!["5", "true", "1.5", "[\"a\"]", "{ a = \"b\" }", "1979-05-27"],
    }
    .into_iter()
    .map(str::to_owned)
    .collect::<Vec<_>>();
    if !["integer", "millis", "bool"].contains(&row.kind.as_str()) {
        let texts = texts(row, false, secret, random).into_iter().filter(|text| !text.is_empty());
        literals.extend(texts.map(|text| toml_string(&text)));
        literals.push(format!("[\"postgres://u:{secret}@h/x\"]"));
        literals.push(number.to_string());
    }
    literals
}

fn toml_string(text: &str) -> String {
    let escaped = text.chars().map(|c| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_control() => format!("\\u{:04X}", u32::from(c)),
        c => c.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

fn cases() -> Vec<Case> {
    let mut random = StdRng::seed_from_u64(SEED);
    let mut cases = Vec::new();
    for row in rows() {
        let mut add = |place, values: Vec<String>, secret: &str| {
            cases.extend(values.into_iter().map(|value| Case {
                row: row.clone(),
                place,
                value,
                secret: secret.to_owned(),
            }));
        };
        let secret = word(&mut random, 14);
        add("env", texts(&row, false, &secret, &mut random), &secret);
        if row.flag.is_some() {
            add("flag", texts(&row, true, &secret, &mut random), &secret);
        }
        add("file", literals(&row, &secret, &mut random), &secret);
    }
    cases
}

impl Case {
    /// Its arguments, its variables, and the name that the message must have.
    fn input(&self, file: &str) -> (Vec<String>, Vec<(String, String)>, String) {
        let Self { row, place, value, .. } = self;
        match *place {
            "env" => (vec!["init".into()], vec![(row.env.clone(), value.clone())], row.env.clone()),
            "flag" => {
                let flag = format!("--{}", row.flag.as_deref().expect("a flag"));
                (vec![format!("{flag}={value}"), "init".into()], Vec::new(), flag)
            }
            _ => {
                let (section, key) = row.key.rsplit_once('.').expect("a section");
                std::fs::write(file, format!("[{section}]\n{key} = {value}\n")).expect("written");
                (vec!["--config".into(), file.into(), "init".into()], Vec::new(), row.key.clone())
            }
        }
    }

    /// What is wrong with `message`.
    fn wrong(&self, message: Option<String>, name: &str) -> Option<String> {
        let about = format!("{} ({}) in {}: {:?}", self.row.key, self.row.kind, self.place, self.value);
        let Some(message) = message else { return Some(format!("accepted: {about}")) };
        let shows = message.contains(&self.secret)
            || (self.row.secret && self.value.len() > 8 && message.contains(&self.value));
        match () {
            () if shows => Some(format!("the secret is shown: {about} → {message}")),
            () if !message.contains(name) || !message.contains(" is not allowed: ") => {
                Some(format!("not named: {about} → {message}"))
            }
            () if !message.contains("use ") && !message.contains("remove ") => {
                Some(format!("no advice: {about} → {message}"))
            }
            () => None,
        }
    }
}

#[test]
fn every_setting_of_a_wrong_kind_is_refused_by_its_name_wherever_it_stands() {
    let cases = cases();
    let (folder, began) = (TempDir::new().expect("a folder"), Instant::now());
    let (wrong, slowest) = (Mutex::new(Vec::new()), Mutex::new(Duration::ZERO));
    for_each(&cases, |case| {
        let file = folder.path().join(format!("{:?}.toml", std::thread::current().id()));
        let (args, environment, name) = case.input(&file.display().to_string());
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let began = Instant::now();
        let message = refusal(&args, &environment);
        let mut slowest = slowest.lock().expect("whole");
        *slowest = began.elapsed().max(*slowest);
        wrong.lock().expect("whole").extend(case.wrong(message, &name));
    });
    let count = |place| cases.iter().filter(|case| case.place == place).count();
    println!(
        "malformed settings: {} in the environment, {} as flags, {} in the file, in {:?}; the slowest took {:?}",
        count("env"),
        count("flag"),
        count("file"),
        began.elapsed(),
        slowest.lock().expect("whole")
    );
    let wrong = wrong.into_inner().expect("whole");
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() >= 2_000, "only {}", cases.len());
}

/// The same code, from the first instruction of the process to its exit code.
#[test]
fn the_binary_itself_refuses_a_sample_of_them_and_starts_nothing() {
    let sample: Vec<_> = cases().into_iter().step_by(12).filter(|case| !case.value.contains('\0')).collect();
    let wrong = Mutex::new(Vec::new());
    for_each(&sample, |case| {
        let (folder, config) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
        let (args, environment, name) = case.input(&config.path().join("x.toml").display().to_string());
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let (code, out, err) = run(&folder, &args, &environment);
        let mut wrong = wrong.lock().expect("whole");
        wrong.extend(case.wrong(Some(err.clone()), &name));
        let started = std::fs::read_dir(folder.path()).expect("a folder").count() > 0;
        if code != 2 || started || !out.is_empty() || err.trim_end().lines().count() != 1 {
            wrong.push(format!("{} {:?}: exit code {code}, {out}{err}", case.row.key, case.value));
        }
    });
    println!("malformed settings given to the binary: {}", sample.len());
    let wrong = wrong.into_inner().expect("whole");
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), sample.len(), wrong.join("\n"));
    assert!(sample.len() >= 150, "only {}", sample.len());
}
