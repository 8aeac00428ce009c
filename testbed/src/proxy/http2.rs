//! HTTP/2, as much of it as a proxy needs: the ends of gRPC requests and replies. Pure.
//!
//! Frames are passed on one by one, as they come. A request is the frame that completes a message of the client's:
//! servers execute a unary call then, and don't wait for the end of its stream. So to hold a request is to hold this
//! frame.

use std::{collections::HashMap, mem};

use super::request::{Content, FromClient, FromServer, ProxiedRequest};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;

/// Finds the requests in the bytes of a client.
#[derive(Default)]
pub(super) struct ClientFrames {
    has_begun: bool,
    headers: loona_hpack::Decoder<'static>,
    /// A header block that goes on in further frames.
    block: Vec<u8>,
    calls: HashMap<u32, Call>,
}

#[derive(Default)]
struct Call {
    path: String,
    /// The bytes of its next message that have arrived, with the five before it that have its length.
    body: Vec<u8>,
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    /// With its header.
    bytes: Vec<u8>,
}

// === impl ClientFrames ===

impl ClientFrames {
    /// The next frame, if it has arrived whole.
    pub(super) fn next(&mut self, input: &mut Vec<u8>) -> Option<FromClient> {
        if !self.has_begun {
            self.has_begun = input.len() >= PREFACE.len();
            return self.has_begun.then(|| FromClient::Other(input.drain(..PREFACE.len()).collect()));
        }
        let frame = Frame::take(input)?;
        let mut message = None;
        match frame.kind {
            HEADERS => {
                self.block = frame.block().to_vec();
                self.read_block(&frame);
            }
            CONTINUATION => {
                self.block.extend_from_slice(frame.payload());
                self.read_block(&frame);
            }
            DATA => {
                if let Some(call) = self.calls.get_mut(&frame.stream) {
                    call.body.extend_from_slice(frame.unpadded());
                    message = call.message().map(|message| (call.path.clone(), message));
                }
            }
            _ => {}
        }
        let ends = matches!(frame.kind, DATA | HEADERS) && frame.has(END_STREAM);
        if ends || frame.kind == RST_STREAM {
            self.calls.remove(&frame.stream);
        }
        Some(match message {
            Some((path, message)) => {
                let content = Content::Grpc { path, message, stream: frame.stream };
                FromClient::Request(ProxiedRequest { content, bytes: frame.bytes })
            }
            None => FromClient::Other(frame.bytes),
        })
    }

    /// Reads a header block once it is whole.
    fn read_block(&mut self, frame: &Frame) {
        if !frame.has(END_HEADERS) {
            return;
        }
        let fields = self.headers.decode(&mem::take(&mut self.block)).unwrap_or_default();
        let path = fields.into_iter().find(|(name, _)| name == b":path");
        let path = path.map(|(_, path)| String::from_utf8_lossy(&path).into_owned());
        self.calls.insert(frame.stream, Call { path: path.unwrap_or_default(), body: Vec::new() });
    }
}

impl Call {
    /// The part that is complete by now; of a streaming call possibly several messages, as one.
    fn message(&mut self) -> Option<Vec<u8>> {
        let mut complete = None;
        while let Some(&[_, a, b, c, d]) = self.body.get(..5) {
            let end = 5 + usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
            if self.body.len() < end {
                break;
            }
            complete.get_or_insert_with(Vec::new).extend_from_slice(&self.body[5..end]);
            self.body.drain(..end);
        }
        complete
    }
}

impl std::fmt::Debug for ClientFrames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientFrames").field("open_calls", &self.calls.len()).finish_non_exhaustive()
    }
}

/// The server's next frame, if it has arrived whole.
pub(super) fn from_server(input: &mut Vec<u8>) -> Option<FromServer> {
    let frame = Frame::take(input)?;
    let completes = match frame.kind {
        DATA | HEADERS => frame.has(END_STREAM),
        kind => kind == RST_STREAM,
    };
    Some(FromServer { stream: frame.stream, completes, bytes: frame.bytes })
}

// === impl Frame ===

impl Frame {
    const HEAD: usize = 9;

    fn take(input: &mut Vec<u8>) -> Option<Self> {
        let head: [u8; Self::HEAD] = input.get(..Self::HEAD)?.try_into().ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let end = Self::HEAD + usize::try_from(length).ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & (u32::MAX >> 1);
        (input.len() >= end).then(|| Self {
            kind: head[3],
            flags: head[4],
            stream,
            bytes: input.drain(..end).collect(),
        })
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn payload(&self) -> &[u8] {
        &self.bytes[Self::HEAD..]
    }

    fn unpadded(&self) -> &[u8] {
        match (self.has(PADDED), self.payload()) {
            (true, [padding, rest @ ..]) => &rest[..rest.len().saturating_sub(usize::from(*padding))],
            (_, payload) => payload,
        }
    }

    /// Of a HEADERS frame: its part of the header block.
    fn block(&self) -> &[u8] {
        let block = self.unpadded();
        if self.has(PRIORITY) { block.get(5..).unwrap_or_default() } else { block }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn headers(encoder: &mut loona_hpack::Encoder<'_>, path: &str) -> Vec<u8> {
        encoder.encode([(&b":method"[..], &b"POST"[..]), (&b":path"[..], path.as_bytes())])
    }

    /// The path, body and stream of each request in `bytes`, however they are cut.
    fn requests(bytes: &[u8], piece: usize) -> Vec<(String, Vec<u8>, u32)> {
        let (mut frames, mut input, mut found, mut passed) =
            (ClientFrames::default(), Vec::new(), Vec::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            input.extend_from_slice(piece);
            while let Some(next) = frames.next(&mut input) {
                match next {
                    FromClient::Request(request) => {
                        passed.extend_from_slice(&request.bytes);
                        let Content::Grpc { path, message, stream } = request.content else { panic!("gRPC") };
                        found.push((path, message, stream));
                    }
                    FromClient::Other(bytes) => passed.extend(bytes),
                    FromClient::Encrypt => panic!("no TLS here"),
                }
            }
        }
        assert_eq!(passed, bytes, "everything is passed on, in order");
        found
    }

    fn message(text: &[u8]) -> Vec<u8> {
        [&[0][..], &u32::try_from(text.len()).unwrap().to_be_bytes(), text].concat()
    }

    #[test]
    fn calls_that_are_interleaved_keep_their_paths_and_messages() {
        let mut encoder = loona_hpack::Encoder::new();
        let (first, second) = (headers(&mut encoder, "/kv/Txn"), headers(&mut encoder, "/kv/Range"));
        let (begin, end) = second.split_at(3);
        let long = message(b"one and more");
        let bytes = [
            PREFACE.to_vec(),
            frame(4, 0, 0, b""),
            frame(HEADERS, END_HEADERS, 1, &first),
            frame(HEADERS, 0, 3, begin),
            frame(CONTINUATION, END_HEADERS, 3, end),
            frame(DATA, 0, 1, &long[..4]),
            frame(DATA, END_STREAM | PADDED, 3, &[&[2][..], &message(b"two"), b"--"].concat()),
            frame(DATA, 0, 1, &long[4..]),
            frame(DATA, END_STREAM, 1, b""),
        ]
        .concat();
        let expected = [
            ("/kv/Range".to_owned(), b"two".to_vec(), 3),
            ("/kv/Txn".to_owned(), b"one and more".to_vec(), 1),
        ];
        for piece in [1, 7, bytes.len()] {
            assert_eq!(requests(&bytes, piece), expected);
        }
    }

    /// A server acts on the message, whether or not the stream's end comes with it.
    #[test]
    fn a_request_is_the_frame_that_completes_the_message() {
        let block = headers(&mut loona_hpack::Encoder::new(), "/kv/Txn");
        let begun = [PREFACE.to_vec(), frame(HEADERS, END_HEADERS, 1, &block)].concat();
        let whole = [begun.clone(), frame(DATA, 0, 1, &message(b"x"))].concat();
        assert_eq!(requests(&whole, whole.len()), [("/kv/Txn".to_owned(), b"x".to_vec(), 1)]);
        let cut = [begun, frame(DATA, 0, 1, &message(b"xy")[..6])].concat();
        assert_eq!(requests(&cut, cut.len()), []);
    }

    #[test]
    fn a_call_that_was_given_up_is_no_request() {
        let block = headers(&mut loona_hpack::Encoder::new(), "/kv/Txn");
        let bytes = [
            PREFACE.to_vec(),
            frame(HEADERS, END_HEADERS | PRIORITY, 1, &[&[0; 5][..], &block].concat()),
            frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
            frame(DATA, END_STREAM, 1, &message(b"late")),
        ]
        .concat();
        assert_eq!(requests(&bytes, bytes.len()), []);
    }

    #[test]
    fn trailers_end_a_reply() {
        let mut input = [
            frame(HEADERS, END_HEADERS, 1, b""),
            frame(DATA, 0, 1, b"x"),
            frame(HEADERS, END_HEADERS | END_STREAM, 1, b""),
        ]
        .concat();
        let ends: Vec<_> = std::iter::from_fn(|| from_server(&mut input))
            .map(|frame| (frame.stream, frame.completes))
            .collect();
        assert_eq!(ends, [(1, false), (1, false), (1, true)]);
    }
}
