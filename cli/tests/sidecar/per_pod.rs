//! `fencingScopeMode: perPod`: a scope for each node, so that sidecars scale out.

use crate::stage::Stage;

#[tokio::test]
async fn every_node_has_a_scope_of_its_own() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let per_pod = |node| ["--fencing-scope-mode", "perPod", "--node-name", node];
    let first = stage.serving("pod-1", 30, &per_pod("node-a")).await?;
    let second = stage.serving("pod-2", 30, &per_pod("node-b")).await?;
    for (sidecar, key) in [(&first, "r"), (&second, "s")] {
        let made = sidecar.reserve(key, 5).await?;
        assert_eq!((made.status, &made.body["fencing_epoch"]), (201, &1.into()), "{made:?}");
    }
    let scopes = "SELECT string_agg(fencing_scope_id || '=' || current_holder_instance_id, ' ' ORDER BY 1)
                  FROM fencing_scopes WHERE current_holder_instance_id IS NOT NULL";
    assert_eq!(stage.text(scopes).await?.as_deref(), Some("payments/node-a=pod-1 payments/node-b=pod-2"));
    // Both spend from one budget of 1,000.
    assert_eq!(first.reserve("t", 600).await?.status, 201);
    let over = second.reserve("u", 600).await?;
    assert_eq!((over.status, over.code()), (409, "BUDGET_EXCEEDED"), "{over:?}");
    Ok(())
}
