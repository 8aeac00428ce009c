//! Counts of what went through a proxy.

use std::collections::BTreeMap;

/// The traffic through a [`Proxy`](super::Proxy) up to one moment: requests that were passed on to the server, and
/// replies that were passed on to the client, by the text of their SQL or the path of their gRPC call. Start-up and
/// authentication don't count.
///
/// There is one entry for each different text, so inline values make it grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoundTrips {
    by_text: BTreeMap<String, RoundTripCount>,
}

/// A number of round trips.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoundTripCount {
    /// Requests that were passed on to the server.
    pub requests: u64,
    /// Replies that were passed on to the client to their end, errors included. A client may return with an error or
    /// its first row before that: then await this number.
    pub replies: u64,
}

impl RoundTrips {
    /// All of them.
    pub fn total(&self) -> RoundTripCount {
        self.matching("")
    }

    /// Those whose SQL or path contains `text`. Several statements in one request are one text, joined by `"; "`.
    pub fn matching(&self, text: &str) -> RoundTripCount {
        let counts = self.by_text.iter().filter(|(known, _)| known.contains(text)).map(|(_, count)| count);
        counts.fold(RoundTripCount::default(), |sum, count| RoundTripCount {
            requests: sum.requests + count.requests,
            replies: sum.replies + count.replies,
        })
    }

    /// Every text with its count, where that isn't zero.
    pub fn by_text(&self) -> impl Iterator<Item = (&str, RoundTripCount)> {
        self.by_text.iter().map(|(text, count)| (text.as_str(), *count))
    }

    /// The difference to an `earlier` snapshot of the same proxy.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let difference = |(text, count): (&String, &RoundTripCount)| {
            let before = earlier.by_text.get(text).copied().unwrap_or_default();
            let count = RoundTripCount {
                requests: count.requests - before.requests,
                replies: count.replies - before.replies,
            };
            (count != RoundTripCount::default()).then(|| (text.clone(), count))
        };
        Self { by_text: self.by_text.iter().filter_map(difference).collect() }
    }

    pub(super) fn request(&mut self, text: &str) {
        self.by_text.entry(text.to_owned()).or_default().requests += 1;
    }

    pub(super) fn replies(&mut self, answered: &[String]) {
        for text in answered {
            self.by_text.entry(text.clone()).or_default().replies += 1;
        }
    }
}
