//! Failures, and their certainty.

use std::fs;
use std::time::Duration;

use futures::future::join_all;
use lease_core::{Certainty, Change, LeaseBackend};
use lease_k8s::{K8s, K8sConfig};
use lease_testbed::{ControlPlane, ControlPlaneOptions, Proxy, wait_for, wait_until};
use serde_json::{Value, json};

use crate::common::*;

#[tokio::test]
async fn a_write_that_was_cut_off_on_its_way_is_unknown() -> anyhow::Result<()> {
    let (store, lease) = (store().await?, name("cut-off"));
    let gate = store.plane.plain_gate()?;
    let proxy = Proxy::tcp(gate.addr())?;
    let backend = connect(&store.identity.plain_kubeconfig_through(proxy.addr())?).await?;
    let seen = held(&backend, &lease).await?;
    let mut hold = proxy.hold(|request| request.contains("PUT /apis/"));
    let (next, cut) = (renewed(&seen), async {
        hold.held().await?;
        hold.discard();
        anyhow::Ok(())
    });
    let (put, cut) = tokio::join!(backend.put_if(&lease, &seen, &next, Change::Renew), cut);
    cut?;
    assert_eq!(put.expect_err("it never arrived").certainty, Certainty::Unknown);
    assert_eq!(store.backend.observe(&lease).await?, seen);
    renew(&backend, &lease, &seen).await?;
    Ok(())
}

#[tokio::test]
async fn a_refused_connection_is_certainly_no_write() -> anyhow::Result<()> {
    let (store, lease) = (store().await?, name("refused"));
    let proxy = Proxy::tcp(store.plane.addr())?;
    let backend = connect(&store.identity.kubeconfig_through(proxy.addr())?).await?;
    let seen = held(&backend, &lease).await?;
    proxy.refuse(true).await?;
    proxy.cut().await;
    let error = wait_for("the connection is known to be closed", LIMIT, async || {
        let error = backend.put_if(&lease, &seen, &renewed(&seen), Change::Renew).await.expect_err("refused");
        if error.certainty == Certainty::NotApplied { Ok(error) } else { Err(error) }
    })
    .await?;
    assert!(!error.refused && error.to_string().contains("no connection"), "{error}");
    proxy.refuse(false).await?;
    renew(&backend, &lease, &seen).await?;
    Ok(())
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_at_the_limit() -> anyhow::Result<()> {
    let (store, lease) = (store().await?, name("silent"));
    let proxy = Proxy::tcp(store.plane.addr())?;
    let kubeconfig = store.identity.kubeconfig_through(proxy.addr())?;
    let backend = K8s::connect(config(&kubeconfig).call_limit(Duration::from_secs(3))?).await?;
    let seen = held(&store.backend, &lease).await?;
    backend.observe(&lease).await?;
    proxy.stall();
    let error = backend.put_if(&lease, &seen, &renewed(&seen), Change::Renew).await.expect_err("no answer");
    assert_eq!(error.certainty, Certainty::Unknown, "{error}");
    let error = backend.observe(&lease).await.expect_err("no answer");
    assert_eq!(error.certainty, Certainty::NotApplied, "{error}");
    proxy.heal();
    // The write that was given up may have arrived with the healing: whichever it is, the register is whole.
    let now = wait_for("an answer", LIMIT, || backend.observe(&lease)).await?;
    assert_eq!(now.grant(), seen.grant());
    Ok(())
}

/// By the API server's own priority and fairness: this worker's updates have the least share of it.
#[tokio::test]
async fn an_overloaded_server_refuses_a_write_for_certain_and_says_for_how_long() -> anyhow::Result<()> {
    let (store, lease) = (store().await?, name("overloaded"));
    held(&store.backend, &lease).await?;
    let (access, none) = (store.plane.access(), format!("none-{}", store.identity.namespace()));
    let api = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let limited = json!({
        "nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"},
    });
    let level = json!({"metadata": {"name": none}, "spec": {"type": "Limited", "limited": limited}});
    access.request("POST", &format!("{api}/prioritylevelconfigurations"), Some(level)).await?;
    let account = json!({"name": "worker", "namespace": store.identity.namespace()});
    let flow = json!({"metadata": {"name": none}, "spec": {
        "priorityLevelConfiguration": {"name": none},
        "matchingPrecedence": 2,
        "rules": [{
            "subjects": [{"kind": "ServiceAccount", "serviceAccount": account}],
            "resourceRules": [{"verbs": ["update"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}],
        }],
    }});
    access.request("POST", &format!("{api}/flowschemas"), Some(flow)).await?;
    // One at a time is served all the same.
    let error = wait_for("one of many is refused", LIMIT, async || {
        let seen = store.backend.observe(&lease).await.expect("reads aren't limited");
        let puts = (0..8).map(|_| async {
            let next = renewed(&seen);
            store.backend.put_if(&lease, &seen, &next, Change::Renew).await.map_err(|error| (next.tag, error))
        });
        join_all(puts).await.into_iter().find_map(Result::err).ok_or("all were answered")
    })
    .await?;
    let (tag, error) = error;
    assert!(error.certainty == Certainty::NotApplied && !error.refused, "{error}");
    assert!(error.to_string().contains("overloaded, and asks to wait"), "{error}");
    assert_ne!(store.backend.observe(&lease).await?.tag(), Some(tag), "it was retried");
    access.request("DELETE", &format!("{api}/flowschemas/{none}"), None).await?;
    wait_until("the server takes writes again", LIMIT, async || {
        let Ok(seen) = store.backend.observe(&lease).await else { return false };
        store.backend.put_if(&lease, &seen, &renewed(&seen), Change::Renew).await.is_ok()
    })
    .await
}

#[tokio::test]
async fn a_lost_etcd_leaves_writes_unknown_and_reads_not_applied_until_it_is_back() -> anyhow::Result<()> {
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await?;
    let (store, lease) = (store_on(&plane).await?, name("headless"));
    let seen = held(&store.backend, &lease).await?;
    let backend =
        K8s::connect(config(store.identity.kubeconfig()).call_limit(Duration::from_secs(2))?).await?;
    let etcd = &plane.etcd().members()[0];
    etcd.kill().await?;
    let error = backend.put_if(&lease, &seen, &renewed(&seen), Change::Renew).await.expect_err("no store");
    assert!(error.certainty == Certainty::Unknown && !error.refused, "{error}");
    let error = backend.observe(&lease).await.expect_err("no store");
    assert!(error.certainty == Certainty::NotApplied && !error.refused, "{error}");
    etcd.start_again()?;
    etcd.ready().await?;
    let now = wait_for("the API server has its store again", LIMIT, || backend.observe(&lease)).await?;
    assert_eq!(now.grant(), seen.grant());
    let now = renew(&store.backend, &lease, &now).await?;

    // Restarted, and slow: SIGKILL, and a start of some seconds.
    plane.crash().await?;
    let error = backend.put_if(&lease, &now, &renewed(&now), Change::Renew).await.expect_err("no server");
    assert!(!error.refused, "{error}");
    plane.start_again().await?;
    wait_until("it answers", LIMIT, async || renew(&backend, &lease, &now).await.is_ok()).await
}

#[tokio::test]
async fn who_may_not_is_told_what_to_grant() -> anyhow::Result<()> {
    let identity = identity(plane().await, json!([])).await?;
    let backend = connect(identity.kubeconfig()).await?;
    let error = backend.observe(&name("forbidden")).await.expect_err("no rule allows it");
    assert!(error.refused && error.to_string().contains("a Role"), "{error}");

    identity.write_token("no-token")?;
    let error = K8s::connect(config(identity.kubeconfig())).await.expect_err("nobody's token");
    assert!(error.refused && error.to_string().contains("credentials"), "{error}");
    assert!(!format!("{error:?} {backend:?}").contains("no-token"), "a token is shown");
    Ok(())
}

#[tokio::test]
async fn a_namespace_that_is_not_there_is_named() -> anyhow::Result<()> {
    let config = config(plane().await.kubeconfig()).namespace("nowhere")?;
    let backend = K8s::connect(config).await?;
    let error = init(&backend, &name("lost")).await.expect_err("no namespace");
    assert!(error.to_string().contains("no such namespace"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_refused_in_words() -> anyhow::Result<()> {
    let store = store().await?;
    let mut kubeconfig: Value = serde_json::from_slice(&fs::read(store.identity.kubeconfig())?)?;
    kubeconfig["clusters"][0]["cluster"].as_object_mut().expect("a cluster").remove("certificate-authority");
    let path = store.identity.kubeconfig().with_extension("untrusting");
    fs::write(&path, serde_json::to_vec(&kubeconfig)?)?;
    let error = K8s::connect(config(&path)).await.expect_err("nobody vouches for the server");
    assert!(error.refused && error.to_string().contains("certificate"), "{error}");
    Ok(())
}

#[tokio::test]
async fn bad_settings_are_refused_in_words_before_anything_is_opened() {
    for (error, words) in [
        (K8sConfig::in_cluster().namespace("No_Such").err(), "a-z, 0-9"),
        (K8sConfig::in_cluster().context("prod").err(), "kubeconfig"),
        (K8sConfig::infer().call_limit(Duration::from_secs(3600)).err(), "100 ms to 60 s"),
    ] {
        let told = error.map(|error| error.to_string()).unwrap_or_default();
        assert!(told.contains(words), "{told}");
    }
    for config in [K8sConfig::in_cluster(), K8sConfig::kubeconfig(Some("/nowhere/at/all".into()))] {
        let error = K8s::connect(config).await.expect_err("there is no such access");
        assert!(error.refused, "{error}");
    }
}
