//! The requests and replies that a proxy tells apart.

/// One request of a client: in PostgreSQL's protocol all messages up to and including a Sync, Query or Flush; of gRPC a
/// message and its call; in TCP mode a piece of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxiedRequest {
    pub(super) content: Content,
    /// The bytes to pass on.
    pub(super) bytes: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Postgres {
        sql: Vec<String>,
        /// It does more than prepare or describe.
        executes: bool,
        /// It is answered by a ReadyForQuery of its own; the reply to a Flush is part of the next request's.
        completes: bool,
    },
    Grpc {
        path: String,
        message: Vec<u8>,
        /// HTTP/2's number of the call.
        stream: u32,
    },
    Tcp,
}

/// A part of the bytes that a client sends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FromClient {
    /// Asks for TLS or GSSAPI; the bytes after it are plain only if the answer is `N`.
    Encrypt,
    Request(ProxiedRequest),
    /// Start-up, authentication, COPY data, goodbye; of HTTP/2 the frames that complete no message.
    Other(Vec<u8>),
}

/// A message of the server, or in TCP mode a piece of its bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FromServer {
    pub(super) bytes: Vec<u8>,
    /// The number of the gRPC call that it belongs to; 0 where replies come in the requests' order.
    pub(super) stream: u32,
    /// It ends the reply to a request.
    pub(super) completes: bool,
}

impl ProxiedRequest {
    /// The SQL of its statements, executed or only prepared; of a prepared statement the text behind its name. Empty
    /// for a bare Sync, and in the other protocols.
    pub fn sql(&self) -> &[String] {
        match &self.content {
            Content::Postgres { sql, .. } => sql,
            Content::Grpc { .. } | Content::Tcp => &[],
        }
    }

    /// It executes a statement whose SQL contains `text`, letter by letter. A client like sqlx prepares a statement in a
    /// request of its own before its first execution: that one only prepares. Always false for gRPC, where
    /// [`calls`](Self::calls) is to be asked, and in TCP mode.
    pub fn sql_contains(&self, text: &str) -> bool {
        self.executes() && self.sql().iter().any(|sql| sql.contains(text))
    }

    /// It is a gRPC call of this method, as `etcdserverpb.KV/Txn` or `KV/Txn`.
    pub fn calls(&self, method: &str) -> bool {
        let Content::Grpc { path, .. } = &self.content else { return false };
        path.strip_suffix(method).is_some_and(|rest| rest.is_empty() || rest.ends_with(['/', '.']))
    }

    /// It executes something other than the preparation of a statement; true in the other protocols.
    pub fn executes(&self) -> bool {
        !matches!(self.content, Content::Postgres { executes: false, .. })
    }

    /// All of it, as it was sent; of a gRPC call the message.
    pub fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Grpc { message, .. } => message,
            Content::Postgres { .. } | Content::Tcp => &self.bytes,
        }
    }

    /// These bytes are in it: a parameter's value, or anything else.
    pub fn contains(&self, bytes: impl AsRef<[u8]>) -> bool {
        let bytes = bytes.as_ref();
        bytes.is_empty() || self.bytes().windows(bytes.len()).any(|window| window == bytes)
    }

    /// Its name in the counts: its SQL, statements joined by `"; "`, or the path of its call.
    pub(super) fn label(&self) -> String {
        match &self.content {
            Content::Postgres { sql, .. } => sql.join("; "),
            Content::Grpc { path, .. } => path.clone(),
            Content::Tcp => String::new(),
        }
    }
}
