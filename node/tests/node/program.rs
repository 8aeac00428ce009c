//! The tasks of this program in a pod.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

/// Answers its host name by HTTP; 503 while there is a file `unready`.
pub(crate) fn serve(port: &str) -> anyhow::Result<()> {
    let listener = TcpListener::bind(format!("0.0.0.0:{port}"))?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        let mut request = [0; 4096];
        let _ = stream.read(&mut request);
        let status = if Path::new("/run/app/unready").exists() { "503 Unavailable" } else { "200 OK" };
        let name = std::env::var("HOSTNAME")?;
        let _ = write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\n\r\nby {name}");
    }
    Ok(())
}

pub(crate) async fn whoami() -> anyhow::Result<()> {
    let client = kube::Client::try_default().await?;
    let asked = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let request = http::Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews");
    let request = request.header("content-type", "application/json").body(serde_json::to_vec(&asked)?)?;
    let answer: Value = client.request(request).await?;
    println!("{}", answer["status"]["userInfo"]["username"].as_str().context("nobody")?);
    Ok(())
}

pub(crate) fn get(host: &str, port: &str) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(format!("{host}:{port}"))?;
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    println!("{host}: {}", answer.lines().last().unwrap_or_default());
    Ok(())
}
