//! PostgreSQL's protocol, as much of it as a proxy needs: the ends of requests and replies. Pure.

use std::{collections::HashMap, mem};

use super::request::{Content, FromClient, FromServer, ProxiedRequest};

const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;

/// Finds the requests in the bytes of a client.
#[derive(Debug, Default)]
pub(super) struct ClientMessages {
    started: bool,
    /// The SQL of prepared statements by name: a Bind has only the name.
    statements: HashMap<String, String>,
    /// The messages of the next request that have arrived.
    burst: Vec<u8>,
    sql: Vec<String>,
    executes: bool,
    /// The statement that was parsed in this burst and is not yet bound: its Bind isn't a second statement.
    parsed: Option<String>,
}

impl ClientMessages {
    /// The next part of the input, if it has arrived whole.
    pub(super) fn next(&mut self, input: &mut Vec<u8>) -> Option<FromClient> {
        if !self.started {
            return self.start(input);
        }
        loop {
            let message = take(input, 1)?;
            let kind = message[0];
            self.note(kind, &message[5..]);
            self.executes |= matches!(kind, b'Q' | b'E' | b'F');
            self.burst.extend_from_slice(&message);
            match kind {
                b'Q' | b'S' | b'F' | b'H' => {
                    let (sql, bytes) = (mem::take(&mut self.sql), mem::take(&mut self.burst));
                    let executes = mem::take(&mut self.executes);
                    self.parsed = None;
                    let content = Content::Postgres { sql, executes, completes: kind != b'H' };
                    return Some(FromClient::Request(ProxiedRequest { content, bytes }));
                }
                b'P' | b'B' | b'E' | b'D' | b'C' => {}
                _ => return Some(FromClient::Other(mem::take(&mut self.burst))),
            }
        }
    }

    /// The first message has no type.
    fn start(&mut self, input: &mut Vec<u8>) -> Option<FromClient> {
        let message = take(input, 0)?;
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

/// The server's next message, if it has arrived whole.
pub(super) fn from_server(input: &mut Vec<u8>) -> Option<FromServer> {
    let bytes = take(input, 1)?;
    let completes = bytes[0] == b'Z';
    Some(FromServer { bytes, stream: 0, completes })
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

    /// A client that has started, and its input.
    #[derive(Default)]
    struct Client(ClientMessages, Vec<u8>);

    impl Client {
        fn started() -> Self {
            Self(ClientMessages { started: true, ..ClientMessages::default() }, Vec::new())
        }

        fn feed(&mut self, bytes: &[u8]) {
            self.1.extend_from_slice(bytes);
        }

        fn next(&mut self) -> Option<FromClient> {
            self.0.next(&mut self.1)
        }
    }

    fn requests(parser: &mut Client, bytes: &[u8]) -> Vec<Vec<String>> {
        parser.feed(bytes);
        let next = || match parser.next()? {
            FromClient::Request(request) => Some(request.sql().to_vec()),
            other => panic!("{other:?}"),
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn a_start_may_ask_for_encryption_first() {
        let mut parser = Client::default();
        let startup = [&8_u32.to_be_bytes()[..], &196_608_u32.to_be_bytes()].concat();
        parser.feed(&[&8_u32.to_be_bytes()[..], &SSL_REQUEST.to_be_bytes(), &startup].concat());
        assert_eq!(parser.next(), Some(FromClient::Encrypt));
        assert_eq!(parser.next(), Some(FromClient::Other(startup)));
        assert_eq!(parser.next(), None);
    }

    #[test]
    fn a_bind_has_the_text_that_was_prepared_under_its_name() {
        let mut parser = Client::started();
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
        let mut parser = Client::started();
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
        let mut parser = Client::started();
        let bytes = [message(b'Q', b"begin\0"), message(b'Q', b"commit\0")].concat();
        let mut found = Vec::new();
        for byte in bytes {
            found.extend(requests(&mut parser, &[byte]));
        }
        assert_eq!(found, [["begin"], ["commit"]]);
    }

    #[test]
    fn only_ready_for_query_ends_a_reply() {
        let (row, ready) = (message(b'D', b"Z"), message(b'Z', b"I"));
        let mut input = [&row[..], &ready, &ready[..3]].concat();
        let mut next = || from_server(&mut input);
        assert_eq!(next(), Some(FromServer { bytes: row, stream: 0, completes: false }));
        assert_eq!(next(), Some(FromServer { bytes: ready, stream: 0, completes: true }));
        assert_eq!(next(), None);
    }
}
