//! Malformed calls, made from the protocol's own definition: each field of each request with what it must not have, and
//! bytes that are no message. Each is refused by the field's name, and the ledger goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use lease_spendguard::rpc::ledger::v1::{self, DEFINITION};
use prost::Message;
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::stage::{SCOPE, Stage, TENANT, attempt, fence, outcome, reserve, won};

const SEED: u64 = 15;
const CALL_LIMIT: Duration = Duration::from_secs(20);

/// A field on the wire.
#[derive(Clone)]
enum Wire {
    Number(u64),
    Bytes(Vec<u8>),
}

/// A message: its fields by number.
type Fields = BTreeMap<u32, Wire>;

fn varint(mut value: u64, into: &mut Vec<u8>) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

fn encoded(fields: &Fields) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, wire) in fields {
        match wire {
            Wire::Number(value) => {
                varint(u64::from(number << 3), &mut bytes);
                varint(*value, &mut bytes);
            }
            Wire::Bytes(value) => {
                varint(u64::from(number << 3 | 2), &mut bytes);
                varint(value.len() as u64, &mut bytes);
                bytes.extend(value);
            }
        }
    }
    bytes
}

/// What the protocol says, and a valid value for each field.
struct Protocol {
    messages: BTreeMap<String, DescriptorProto>,
    /// Method, request, response.
    methods: Vec<(String, String, String)>,
    fence: v1::Fence,
    /// The scope's register, as JSON.
    record: String,
}

impl Protocol {
    fn new(fence: v1::Fence, record: String) -> Self {
        let set = FileDescriptorSet::decode(DEFINITION).expect("a definition");
        let file = set.file.into_iter().find(|file| file.package() == "spendguard.ledger.v1").expect("ours");
        let bare = |name: &str| name.rsplit('.').next().expect("a name").to_owned();
        let service = file.service.first().expect("a service");
        let methods = service.method.iter();
        Self {
            methods: methods
                .map(|m| (m.name().to_owned(), bare(m.input_type()), bare(m.output_type())))
                .collect(),
            messages: file
                .message_type
                .into_iter()
                .map(|message| (message.name().to_owned(), message))
                .collect(),
            fence,
            record,
        }
    }

    fn fields(&self, message: &str) -> &[FieldDescriptorProto] {
        &self.messages[message].field
    }

    /// A request that the ledger would do, but for what is changed in it.
    fn valid(&self, message: &str) -> Fields {
        let text = |text: &str| Some(Wire::Bytes(text.as_bytes().to_vec()));
        let fields = self.fields(message).iter().filter_map(|field| {
            let value = match field.name() {
                "fencing_scope_id" => text(SCOPE),
                "tenant_id" => text(TENANT),
                "workload_instance_id" => text(&self.fence.workload_instance_id),
                "epoch" => Some(Wire::Number(self.fence.epoch)),
                "grant" => Some(Wire::Bytes(self.fence.grant.clone())),
                "ttl_seconds" => Some(Wire::Number(60)),
                "limit_ms" | "amount_minor" => Some(Wire::Number(1)),
                "currency" => text("EUR"),
                "reservation_id" => text("00000000-0000-4000-8000-000000000000"),
                "record" => text(&self.record),
                "change" => text("renew"),
                "idempotency_key" => text("malformed"),
                "expected_tag" => Some(Wire::Bytes(vec![7; 16])),
                "fence" => Some(Wire::Bytes(encoded(&self.valid("Fence")))),
                "any_holder" | "audit_event_id" | "by" | "force" | "request_id" | "seen_grant"
                | "seen_tag" => None,
                other => panic!("a field without a valid value: {other}"),
            };
            Some((field.number() as u32, value?))
        });
        fields.collect()
    }

    /// What a field must not have; none is a field that is missing.
    fn wrong(&self, message: &str, field: &FieldDescriptorProto) -> Vec<Option<Wire>> {
        let text = |text: &str| Some(Wire::Bytes(text.as_bytes().to_vec()));
        let bytes =
            |lengths: &[usize]| lengths.iter().map(|n| Some(Wire::Bytes(vec![7; *n]))).collect::<Vec<_>>();
        let numbers =
            |values: &[i64]| values.iter().map(|n| Some(Wire::Number(*n as u64))).collect::<Vec<_>>();
        let long = "x".repeat(500);
        let mut wrong = match (field.r#type(), field.name()) {
            (Type::Bool, _) => Vec::new(),
            (_, "epoch") => numbers(&[0, -1, i64::MAX, i64::MIN, (1 << 62) + 1]),
            (_, "amount_minor") => numbers(&[0, -1, i64::MIN]),
            (_, "ttl_seconds") => numbers(&[0, 86_401, 100_000, i64::from(u32::MAX), i64::from(i32::MAX)]),
            (_, "limit_ms") => numbers(&[0, 30_001, i64::from(u32::MAX)]),
            (Type::Bytes, "grant") if message == "Fence" => {
                [vec![None], bytes(&[0, 1, 15, 17, 32, 1_000])].concat()
            }
            (Type::Bytes, _) => bytes(&[1, 15, 17, 32, 1_000]),
            (Type::Message, _) => vec![None],
            (Type::String, "currency") => {
                ["", "eur", "EURO", "EU", "€", "E R", "EU1"].into_iter().map(text).collect()
            }
            (Type::String, "change") => {
                ["", "banana", "Renew", "acquire ", &long].into_iter().map(text).collect()
            }
            (Type::String, "reservation_id") => ["", "x", "0000", &long].into_iter().map(text).collect(),
            (Type::String, "record") => {
                let deep = "[".repeat(20_000);
                let texts = [
                    "",
                    "{",
                    "[]",
                    "null",
                    "5",
                    "{\"epoch\":-1}",
                    "{\"epoch\":1e99}",
                    "{\"holder\":5}",
                    &deep,
                ];
                texts.into_iter().map(text).collect()
            }
            (Type::String, name) => {
                let optional = ["audit_event_id", "by", "request_id"].contains(&name);
                let texts = ["a\0b", "a\nb", "\u{1b}[2J", "\u{7f}", "\u{9b}31m", &long].into_iter().map(text);
                let missing = [None, text("")].into_iter().filter(|_| !optional);
                let slash = text("a/b").filter(|_| name == "workload_instance_id");
                texts.chain(missing).chain(slash.map(Some)).collect()
            }
            other => panic!("a field without nonsense: {other:?}"),
        };
        // Bytes that are no UTF-8, and a field of another type.
        if field.r#type() == Type::String {
            wrong.push(Some(Wire::Bytes(vec![0xff, 0xfe])));
        }
        wrong.push(Some(match field.r#type() {
            Type::String | Type::Bytes | Type::Message => Wire::Number(7),
            _ => Wire::Bytes(vec![1, 2, 3]),
        }));
        wrong
    }

    /// What the fields' own rules don't allow together, or what isn't a message at all.
    fn cases(&self) -> Vec<Case> {
        let mut random = StdRng::seed_from_u64(SEED);
        let mut cases = Vec::new();
        for (method, request, _) in &self.methods {
            let mut add = |field: &str, bytes| {
                cases.push(Case { method: method.clone(), field: field.to_owned(), bytes });
            };
            let with = |number: i32, wire: Option<Wire>, mut fields: Fields| {
                fields.remove(&(number as u32));
                fields.extend(wire.map(|wire| (number as u32, wire)));
                fields
            };
            for field in self.fields(request) {
                for wire in self.wrong(request, field) {
                    add(field.name(), encoded(&with(field.number(), wire, self.valid(request))));
                }
                if field.name() == "fence" {
                    for inner in self.fields("Fence") {
                        for wire in self.wrong("Fence", inner) {
                            let fence = encoded(&with(inner.number(), wire, self.valid("Fence")));
                            let whole = with(field.number(), Some(Wire::Bytes(fence)), self.valid(request));
                            add(inner.name(), encoded(&whole));
                        }
                    }
                }
            }
            let whole = encoded(&self.valid(request));
            for _ in 0..24 {
                // Cut in the middle of a field; and anything at all.
                let cut = (0..random.random_range(0..90)).map(|_| random.random());
                add("", whole.iter().copied().chain([0x0a, 100]).chain(cut).collect());
                let length = random.random_range(1..200);
                add("", (0..length).map(|_| random.random()).collect());
            }
            add("", vec![7; 70_000]);
        }
        cases
    }
}

struct Case {
    method: String,
    /// The field that the refusal must name; empty where none is to blame.
    field: String,
    bytes: Vec<u8>,
}

/// Bytes as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        prost::bytes::BufMut::put_slice(into, &item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut bytes = vec![0; prost::bytes::Buf::remaining(from)];
        prost::bytes::Buf::copy_to_slice(from, &mut bytes);
        Ok(Some(bytes))
    }
}

async fn send(client: &mut Grpc<Channel>, case: &Case) -> Result<Vec<u8>, Status> {
    client.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
    let path: PathAndQuery = format!("/spendguard.ledger.v1.Ledger/{}", case.method).parse().expect("a path");
    let call = client.unary(Request::new(case.bytes.clone()), path, Raw);
    let answer = tokio::time::timeout(CALL_LIMIT, call).await;
    let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("the test's own limit")))?;
    Ok(answer.into_inner())
}

/// The code and the message of an answer's `error`, the field that every response has.
fn error_in(protocol: &Protocol, response: &str, bytes: &[u8]) -> Option<(String, String)> {
    let number = protocol.fields(response).iter().find(|field| field.name() == "error")?.number() as u64;
    // The error is the only field of such an answer.
    let (key, rest) = bytes.split_first()?;
    if u64::from(*key) != (number << 3 | 2) {
        return None;
    }
    let error = v1::Error::decode_length_delimited(rest).ok()?;
    Some((error.code, error.message))
}

#[tokio::test]
async fn every_malformed_call_is_refused_by_its_fields_name_and_the_ledger_goes_on() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let ledger = stage.ledger().await?;
    let mut proper = ledger.client().await?;
    let fence = fence("pod-a", &won(&proper, attempt("pod-a")).await?);
    let look = v1::ObserveFencingScopeRequest { fencing_scope_id: SCOPE.into(), tenant_id: TENANT.into() };
    let record = match proper.observe_fencing_scope(look).await?.into_inner().outcome {
        Some(v1::observe_fencing_scope_response::Outcome::Scope(scope)) => scope.record,
        other => anyhow::bail!("not observed: {other:?}"),
    };
    let protocol = Protocol::new(fence.clone(), record);
    let channel = Channel::from_shared(format!("http://{}", ledger.grpc))?.connect().await?;
    let (mut client, cases, mut wrong) = (Grpc::new(channel), protocol.cases(), Vec::new());
    for case in &cases {
        let response = &protocol.methods.iter().find(|(method, ..)| *method == case.method).expect("ours").2;
        let about = format!("{}, {:?}, {} bytes", case.method, case.field, case.bytes.len());
        let (refused, text) = match send(&mut client, case).await {
            Err(status) => {
                let code = status.code();
                let fine = [Code::InvalidArgument, Code::Internal, Code::OutOfRange, Code::NotFound];
                (fine.contains(&code), format!("{code:?}: {}", status.message()))
            }
            Ok(bytes) => match error_in(&protocol, response, &bytes) {
                Some((code, message)) => {
                    (case.field.is_empty() || code == "INVALID_ARGUMENT", format!("{code}: {message}"))
                }
                None => (false, format!("{bytes:?}")),
            },
        };
        if !refused || !text.contains(&case.field) {
            wrong.push(format!("{about}: {text}"));
        }
    }
    println!("malformed gRPC calls: {} of {} methods", cases.len(), protocol.methods.len());
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() >= 500, "only {}", cases.len());
    assert!(outcome(proper.reserve(reserve(&fence, "afterwards", 1)).await?)?.is_ok(), "it goes on");
    assert_eq!(stage.int("SELECT count(*) FROM reservations").await?, 1, "nothing else was written");
    assert!(
        !ledger.process.lines().iter().any(|line| line.contains("panicked")),
        "{:?}",
        ledger.process.lines()
    );
    stage.books_balance().await
}
