//! Where one request ends and its reply: as much of PostgreSQL's protocol as a proxy needs. Pure.

use std::{collections::HashMap, mem};

use super::http2::{self, ClientFrames};

/// What the proxy understands of the bytes that it passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Postgres,
    /// gRPC without TLS; each unary call is a request.
    Grpc,
    /// Each piece that is read is a request, the next piece that comes back its reply.
    Tcp,
}

/// One request of a client: in PostgreSQL's protocol all messages up to and including a Sync, Query or Flush.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub(super) sql: Vec<String>,
    /// What is passed on for it.
    pub(super) bytes: Vec<u8>,
    /// What it says, where that isn't what is passed on.
    body: Option<Vec<u8>>,
    /// Which of the requests that are under way at once it is, where there are several.
    pub(super) stream: u32,
    /// Not only prepares or describes.
    pub(super) executes: bool,
    /// Answered by ReadyForQuery of its own. A Flush isn't: its reply is part of the next request's.
    pub(super) completes: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum FromClient {
    /// Asks for TLS or GSSAPI; what is behind is plain for us only if the answer is `N`.
    Encrypt,
    Request(Request),
    /// Start-up, authentication, COPY data, goodbye.
    Other(Vec<u8>),
}

#[derive(Debug)]
pub(super) struct ClientParser {
    protocol: Protocol,
    input: Vec<u8>,
    started: bool,
    /// The texts of prepared statements by name: a Bind has only the name.
    statements: HashMap<String, String>,
    frames: ClientFrames,
    burst: Vec<u8>,
    sql: Vec<String>,
    executes: bool,
    /// Parsed in this burst and not yet bound: its Bind isn't a second statement.
    parsed: Option<String>,
}

#[derive(Debug)]
pub(super) struct ServerParser {
    protocol: Protocol,
    input: Vec<u8>,
}

/// A message of the server, or in plain TCP a piece of its bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FromServer {
    pub(super) bytes: Vec<u8>,
    /// The request's that it belongs to; 0 where replies come in the requests' order.
    pub(super) stream: u32,
    /// Whether it ends the reply to a request.
    pub(super) completes: bool,
}

const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;

// === impl Request ===

impl Request {
    /// A gRPC call, whose last frame is `frame`.
    pub(super) fn call(stream: u32, path: String, body: Vec<u8>, frame: Vec<u8>) -> Self {
        Self { sql: vec![path], bytes: frame, body: Some(body), stream, executes: true, completes: true }
    }

    fn of(sql: Vec<String>, bytes: Vec<u8>, executes: bool, completes: bool) -> Self {
        Self { sql, bytes, body: None, stream: 0, executes, completes }
    }

    /// The texts of its statements, executed or only prepared: for a prepared one the text behind its name. Empty for a bare Sync, and in
    /// TCP mode. Of a gRPC call its path, as `/etcdserverpb.KV/Txn`.
    pub fn sql(&self) -> &[String] {
        &self.sql
    }

    /// Whether it executes a statement whose text contains `text`, letter by letter. A client like sqlx prepares a
    /// statement in a request of its own before its first execution: that one only prepares.
    pub fn sql_contains(&self, text: &str) -> bool {
        self.executes && self.sql.iter().any(|sql| sql.contains(text))
    }

    /// Whether it executes anything, other than to prepare a statement. In TCP mode always true.
    pub fn executes(&self) -> bool {
        self.executes
    }

    /// All of it, as it was sent; of a gRPC call its message.
    pub fn bytes(&self) -> &[u8] {
        self.body.as_deref().unwrap_or(&self.bytes)
    }

    /// Whether these bytes are in it: a parameter's value, or in TCP mode anything.
    pub fn contains(&self, bytes: impl AsRef<[u8]>) -> bool {
        let bytes = bytes.as_ref();
        bytes.is_empty() || self.bytes().windows(bytes.len()).any(|window| window == bytes)
    }
}

// === impl ClientParser ===

impl ClientParser {
    pub(super) fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            input: Vec::new(),
            started: false,
            statements: HashMap::new(),
            frames: ClientFrames::default(),
            burst: Vec::new(),
            sql: Vec::new(),
            executes: false,
            parsed: None,
        }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    pub(super) fn next(&mut self) -> Option<FromClient> {
        match self.protocol {
            Protocol::Postgres => {}
            Protocol::Grpc => return self.frames.next(&mut self.input),
            Protocol::Tcp => {
                let request = Request::of(Vec::new(), mem::take(&mut self.input), true, true);
                return (!request.bytes.is_empty()).then_some(FromClient::Request(request));
            }
        }
        if !self.started {
            return self.start();
        }
        loop {
            let message = take(&mut self.input, 1)?;
            let kind = message[0];
            self.note(kind, &message[5..]);
            self.executes |= matches!(kind, b'Q' | b'E' | b'F');
            self.burst.extend_from_slice(&message);
            match kind {
                b'Q' | b'S' | b'F' | b'H' => {
                    let (sql, bytes) = (mem::take(&mut self.sql), mem::take(&mut self.burst));
                    let executes = mem::take(&mut self.executes);
                    self.parsed = None;
                    return Some(FromClient::Request(Request::of(sql, bytes, executes, kind != b'H')));
                }
                b'P' | b'B' | b'E' | b'D' | b'C' => {}
                _ => return Some(FromClient::Other(mem::take(&mut self.burst))),
            }
        }
    }

    /// The first message has no type.
    fn start(&mut self) -> Option<FromClient> {
        let message = take(&mut self.input, 0)?;
        let code = message.get(4..8).map(|code| u32::from_be_bytes([code[0], code[1], code[2], code[3]]));
        if matches!(code, Some(SSL_REQUEST | GSS_REQUEST)) {
            return Some(FromClient::Encrypt);
        }
        self.started = true;
        Some(FromClient::Other(message))
    }

    fn note(&mut self, kind: u8, body: &[u8]) {
        let mut texts = body.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
        let mut text = || texts.next().unwrap_or_default();
        match kind {
            b'Q' => self.sql.push(text()),
            b'P' => {
                let (name, sql) = (text(), text());
                self.sql.push(sql.clone());
                self.parsed = Some(name.clone());
                self.statements.insert(name, sql);
            }
            b'B' => {
                let (_portal, name) = (text(), text());
                if self.parsed.as_ref() == Some(&name) {
                    self.parsed = None;
                } else if let Some(sql) = self.statements.get(&name) {
                    self.sql.push(sql.clone());
                }
            }
            b'C' if body.first() == Some(&b'S') => {
                self.statements.remove(&text()[1..]);
            }
            _ => {}
        }
    }
}

// === impl ServerParser ===

impl ServerParser {
    pub(super) fn new(protocol: Protocol) -> Self {
        Self { protocol, input: Vec::new() }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    pub(super) fn next(&mut self) -> Option<FromServer> {
        let bytes = match self.protocol {
            Protocol::Postgres => take(&mut self.input, 1)?,
            Protocol::Grpc => return http2::from_server(&mut self.input),
            Protocol::Tcp => mem::take(&mut self.input),
        };
        let completes = self.protocol == Protocol::Tcp || bytes[0] == b'Z';
        (!bytes.is_empty()).then_some(FromServer { bytes, stream: 0, completes })
    }
}

/// Takes a whole message whose length, which counts itself, stands at `at`.
fn take(input: &mut Vec<u8>, at: usize) -> Option<Vec<u8>> {
    let length = input.get(at..at + 4)?;
    let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]);
    let end = at + usize::try_from(length).ok()?.max(4);
    (input.len() >= end).then(|| input.drain(..end).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind], &length[..], body].concat()
    }

    fn started() -> ClientParser {
        ClientParser { started: true, ..ClientParser::new(Protocol::Postgres) }
    }

    fn requests(parser: &mut ClientParser, bytes: &[u8]) -> Vec<Vec<String>> {
        parser.feed(bytes);
        let next = || match parser.next()? {
            FromClient::Request(request) => Some(request.sql),
            other => panic!("{other:?}"),
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn a_start_may_ask_for_encryption_first() {
        let mut parser = ClientParser::new(Protocol::Postgres);
        let startup = [&8_u32.to_be_bytes()[..], &196_608_u32.to_be_bytes()].concat();
        parser.feed(&[&8_u32.to_be_bytes()[..], &SSL_REQUEST.to_be_bytes(), &startup].concat());
        assert_eq!(parser.next(), Some(FromClient::Encrypt));
        assert_eq!(parser.next(), Some(FromClient::Other(startup)));
        assert_eq!(parser.next(), None);
    }

    #[test]
    fn a_bind_has_the_text_that_was_prepared_under_its_name() {
        let mut parser = started();
        let parse = message(b'P', b"s1\0select 1\0\0\0");
        let bind = message(b'B', b"\0s1\0\0\0\0\0\0\0");
        let (execute, sync) = (message(b'E', b"\0\0\0\0\0"), message(b'S', b""));
        let at_once = [&parse[..], &bind, &execute, &sync].concat();
        assert_eq!(requests(&mut parser, &at_once), [["select 1"]]);
        let later = [&bind[..], &execute, &bind, &execute, &sync].concat();
        assert_eq!(requests(&mut parser, &later), [["select 1", "select 1"]]);
        let close = [&message(b'C', b"Ss1\0")[..], &sync, &bind, &sync].concat();
        assert_eq!(requests(&mut parser, &close), [Vec::<String>::new(), Vec::new()]);
    }

    #[test]
    fn preparing_a_statement_is_not_executing_it() {
        let mut parser = started();
        let parse = message(b'P', b"s1\0select 1\0\0\0");
        let (describe, sync) = (message(b'D', b"Ss1\0"), message(b'S', b""));
        parser.feed(&[&parse[..], &describe, &sync, &message(b'Q', b"select 1\0")].concat());
        let mut next = || match parser.next() {
            Some(FromClient::Request(request)) => (request.executes(), request.sql_contains("select")),
            other => panic!("{other:?}"),
        };
        assert_eq!((next(), next()), ((false, false), (true, true)));
    }

    #[test]
    fn a_request_is_one_however_its_bytes_arrive() {
        let mut parser = started();
        let bytes = [message(b'Q', b"begin\0"), message(b'Q', b"commit\0")].concat();
        let mut found = Vec::new();
        for byte in bytes {
            found.extend(requests(&mut parser, &[byte]));
        }
        assert_eq!(found, [["begin"], ["commit"]]);
    }

    #[test]
    fn only_ready_for_query_ends_a_reply() {
        let mut parser = ServerParser::new(Protocol::Postgres);
        let (row, ready) = (message(b'D', b"Z"), message(b'Z', b"I"));
        parser.feed(&[&row[..], &ready, &ready[..3]].concat());
        assert_eq!(parser.next(), Some(FromServer { bytes: row, stream: 0, completes: false }));
        assert_eq!(parser.next(), Some(FromServer { bytes: ready, stream: 0, completes: true }));
        assert_eq!(parser.next(), None);
    }
}
