//! A server of etcd's protocol that is no etcd, as kine: no answer names a cluster.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

/// Answers each call as kine 0.17 answers a read of nothing: by a header that has a revision and no cluster id. It ends
/// with this value.
pub struct EtcdShim {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

const PREFACE: usize = 24;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;

/// The response's `header` with `revision` 1, behind gRPC's mark and length.
const ANSWER: &[u8] = &[0, 0, 0, 0, 4, 0x0a, 2, 0x18, 1];
/// `:status: 200` and `content-type: application/grpc`.
const BEGIN: &[u8] = b"\x88\x0f\x10\x10application/grpc";
/// `grpc-status: 0`.
const END: &[u8] = b"\x00\x0bgrpc-status\x010";

impl EtcdShim {
    /// Starts one on a free port, in this runtime.
    ///
    /// # Errors
    /// When the system has no port left.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no free port")?;
        let addr = listener.local_addr()?;
        let accept = async move {
            let mut clients = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                clients.spawn(serve(client));
            }
        };
        Ok(Self { addr, task: tokio::spawn(accept) })
    }

    /// Its url.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

impl Drop for EtcdShim {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One client, until it leaves. HTTP/2, as much of it as a gRPC client needs.
async fn serve(mut client: TcpStream) -> std::io::Result<()> {
    client.read_exact(&mut [0; PREFACE]).await?;
    send(&mut client, SETTINGS, 0, 0, &[]).await?;
    loop {
        let mut head = [0; 9];
        client.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut body = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        client.read_exact(&mut body).await?;
        let stream = u32::from_be_bytes(stream);
        match kind {
            SETTINGS if flags & ACK == 0 => send(&mut client, SETTINGS, ACK, 0, &[]).await?,
            PING if flags & ACK == 0 => send(&mut client, PING, ACK, 0, &body).await?,
            DATA | HEADERS if flags & END_STREAM != 0 => {
                send(&mut client, HEADERS, END_HEADERS, stream, BEGIN).await?;
                send(&mut client, DATA, 0, stream, ANSWER).await?;
                send(&mut client, HEADERS, END_HEADERS | END_STREAM, stream, END).await?;
            }
            _ => {}
        }
    }
}

async fn send(client: &mut TcpStream, kind: u8, flags: u8, stream: u32, body: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(body.len()).expect("a short frame").to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    client.write_all(&[&head, body].concat()).await
}
