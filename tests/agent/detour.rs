//! Why `src/cell/podman.rs` makes some requests itself: what podman-api still does wrong. When
//! nothing of it is left, that file may go.

use std::path::Path;

use noclaw::cell::start::StartLine;
use noclaw::cell::{Trial, image};
use podman_api::models::Namespace;
use podman_api::opts::{
    ContainerAttachOpts, ContainerCreateOpts, ContainerCreateOptsBuilder, ContainerWaitOpts,
};
use podman_api::{ApiVersion, Podman as Api};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;

use crate::support::{Result, ground};
use crate::talk::{Place, count, within};

/// The kernel's answer as an exit status: 0 with no-new-privileges, 1 without.
const PROBE: [&str; 4] = ["grep", "-q", "NoNewPrivs:\t1", "/proc/self/status"];

fn api(socket: &Path) -> Api {
    Api::unix_versioned(socket, ApiVersion::new(4, Some(0), Some(0)))
}

fn options(image: &str) -> ContainerCreateOptsBuilder {
    let network = Namespace { nsmode: Some("none".to_owned()), value: None };
    let options = ContainerCreateOpts::builder().image(image).net_namespace(network);
    options.command(PROBE).no_new_privilages(true)
}

/// What its container is like.
async fn status_of_theirs(place: &Place, image: &str) -> Result<i64> {
    let api = api(Path::new(&ground("NOCLAW_PODMAN")?));
    let id = api.containers().create(&options(image).labels([place.label()]).build()).await?.id;
    let cells = place.cells();
    let run = async {
        cells.engine().start(&id).await?;
        Ok(within("its end", cells.podman().wait(&id)).await??)
    };
    let status = run.await;
    within("its removal", cells.engine().delete(&id)).await??;
    status
}

/// What it asks of Podman first when told to attach.
async fn first_request_of_attach(place: &Place) -> Result<String> {
    let socket = place.path("podman.sock");
    let listener = UnixListener::bind(&socket)?;
    let podman = tokio::spawn(async move {
        let (stream, _) = listener.accept().await?;
        let mut stream = BufReader::new(stream);
        let mut request = String::new();
        stream.read_line(&mut request).await?;
        stream.write_all(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n").await?;
        Ok::<_, std::io::Error>(request)
    });
    let opts = ContainerAttachOpts::builder().build();
    let refused = api(&socket).containers().get("x").attach(&opts).await;
    assert!(refused.is_err());
    Ok(within("its request", podman).await???)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn podman_api_still_needs_the_detour() -> Result {
    let place = Place::new().await?;
    let image = image::current(place.cells().podman()).await?.ok_or("no image")?.id;
    let mut mended = Vec::new();

    let sent: serde_json::Value = serde_json::from_str(&options(&image).build().serialize()?)?;
    if sent.get("no_new_privileges").is_some() {
        mended.push("it sends no_new_privileges");
    }
    if status_of_theirs(&place, &image).await? == 0 {
        mended.push("its containers have no-new-privileges");
    }
    if !first_request_of_attach(&place).await?.contains("/json?size=true") {
        mended.push("it attaches without an inspect with sizes");
    }
    let api = api(&place.path("podman.sock"));
    let container = api.containers().get("x");
    let opts = ContainerWaitOpts::builder().build();
    if !returns_nothing(&container.wait(&opts)) {
        mended.push("its wait returns the exit status");
    }
    assert!(
        mended.is_empty(),
        "podman-api has been mended: src/cell/podman.rs may shrink: {mended:#?}"
    );

    let start = StartLine::shipped()?;
    let profile = place.seccomp_profile(&start)?;
    let trial =
        Trial { image: &image, program: &PROBE, seccomp_profile: &profile, rules: &start.cell };
    let ours = place.cells().try_out(&trial).await?;
    assert_eq!(ours, 0, "our own containers have no-new-privileges");
    count()
}

/// Whether a request's success says nothing.
fn returns_nothing<T: 'static, E>(_: &impl Future<Output = std::result::Result<T, E>>) -> bool {
    std::any::TypeId::of::<T>() == std::any::TypeId::of::<()>()
}
