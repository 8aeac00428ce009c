//! The texts of a record, short and long: each is kept whole, or the write is refused and nothing has happened.

use std::sync::Arc;

use anyhow::ensure;
use lease_core::{Certainty, Change, Grant, PutOutcome, Record, Request, RequestId, Tag};

use crate::case::cases;
use crate::context::{Cx, record};

cases! { "texts":
    are_kept_whole_or_refused,
}

/// A field, the bytes that every store holds in it, and how a text gets there. A longer one may be refused. Names of
/// holders and works have 253 bytes at most, by the core.
type Field = (&'static str, usize, fn(&mut Record, String));

const FIELDS: [Field; 6] = [
    ("holder", 253, |record, text| record.holder = text),
    ("region", 253, |record, text| record.region = text),
    ("note", 1000, |record, text| record.note = text),
    ("sealed", 1000, |record, text| record.sealed = Some(text)),
    ("request.by", 253, |record, by| {
        let (id, grant) = (RequestId::random(), Grant::random());
        record.request = Some(Request { id, grant, by });
    }),
    // Where the work is, and whatever a later version adds.
    ("work", 253, |record, text| {
        record.extra.insert("work".to_owned(), text.into());
    }),
];

async fn are_kept_whole_or_refused(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (backend, mut seen) = cx.init().await?;
    let first = record(&seen)?.clone();
    // Letters of one to four bytes, so that a limit in bytes cuts one of them.
    let letters = "a\u{fc}\u{20ac}\u{1f512}";
    for (field, held, set) in FIELDS {
        for bytes in [0, 63, 253, 1000, 65_540, 1_500_000] {
            let mut text = letters.repeat(bytes / letters.len());
            text.extend(std::iter::repeat_n('z', bytes - text.len()));
            let mut written = Record { tag: Tag::random(), ..first.clone() };
            set(&mut written, text);
            let put =
                cx.soon("a write", backend.put_if(&cx.lease(), &seen, &written, Change::Request)).await?;
            let read = backend.observe(&cx.lease()).await?;
            match put {
                Ok(PutOutcome::Written(answer)) => {
                    let kept = answer.record.as_ref() == Some(&written) && read.record == answer.record;
                    ensure!(kept, "{field} of {bytes} bytes was acknowledged, and is not kept whole");
                }
                Ok(PutOutcome::Conflict(_)) => {
                    anyhow::bail!("{field} of {bytes} bytes: nobody contends, and it conflicts")
                }
                Err(error) => {
                    ensure!(bytes > held, "{field} of {bytes} bytes must be held: {error:#}");
                    ensure!(
                        error.certainty == Certainty::NotApplied && read.record == seen.record,
                        "{field} of {bytes} bytes was refused, so nothing may happen, and it must say so: {error:?}"
                    );
                }
            }
            seen = read;
        }
    }
    Ok(())
}
