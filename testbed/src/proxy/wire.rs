//! The parsers of a connection, by its protocol. Pure.

use std::mem;

use super::{
    http2::{self, ClientFrames},
    postgres::{self, ClientMessages},
    request::{Content, FromClient, FromServer, ProxiedRequest},
};

/// The protocol of the bytes that a proxy passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Postgres,
    /// gRPC without TLS; each unary call is a request.
    Grpc,
    /// Each piece that is read is a request, the next piece that comes back its reply.
    Tcp,
}

/// Finds the requests in the bytes of a client.
#[derive(Debug)]
pub(super) struct ClientParser {
    input: Vec<u8>,
    state: ClientState,
}

#[derive(Debug)]
enum ClientState {
    Postgres(ClientMessages),
    Grpc(ClientFrames),
    Tcp,
}

/// Finds the ends of replies in the bytes of a server.
#[derive(Debug)]
pub(super) struct ServerParser {
    protocol: Protocol,
    input: Vec<u8>,
}

impl ClientParser {
    pub(super) fn new(protocol: Protocol) -> Self {
        let state = match protocol {
            Protocol::Postgres => ClientState::Postgres(ClientMessages::default()),
            Protocol::Grpc => ClientState::Grpc(ClientFrames::default()),
            Protocol::Tcp => ClientState::Tcp,
        };
        Self { input: Vec::new(), state }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    pub(super) fn next(&mut self) -> Option<FromClient> {
        match &mut self.state {
            ClientState::Postgres(messages) => messages.next(&mut self.input),
            ClientState::Grpc(frames) => frames.next(&mut self.input),
            ClientState::Tcp => {
                let bytes = mem::take(&mut self.input);
                (!bytes.is_empty())
                    .then_some(FromClient::Request(ProxiedRequest { content: Content::Tcp, bytes }))
            }
        }
    }
}

impl ServerParser {
    pub(super) fn new(protocol: Protocol) -> Self {
        Self { protocol, input: Vec::new() }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    pub(super) fn next(&mut self) -> Option<FromServer> {
        match self.protocol {
            Protocol::Postgres => postgres::from_server(&mut self.input),
            Protocol::Grpc => http2::from_server(&mut self.input),
            Protocol::Tcp => {
                let bytes = mem::take(&mut self.input);
                (!bytes.is_empty()).then_some(FromServer { bytes, stream: 0, completes: true })
            }
        }
    }
}
