//! Which pod a component of a cgroup's path is of, with both cgroup drivers of Kubernetes, and of
//! podman. <https://kubernetes.io/docs/concepts/architecture/cgroups/>

/// A pod as the path has it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) id: String,
    /// `None`: it is none of Kubernetes.
    pub(super) qos: Option<&'static str>,
}

/// The systemd driver's: `kubepods-burstable-podUID.slice`, of kind `kubelet-kubepods-podUID.slice`. A
/// pod directly in `kubepods` is of the class that is named there by nothing. And podman's:
/// `machine-libpod_pod_ID.slice`.
pub(super) fn of_slice(slice: &str) -> Option<Pod> {
    let stem = slice.strip_suffix(".slice")?;
    if let Some((_, id)) = stem.rsplit_once("-libpod_pod_") {
        return id_of(id).map(|id| Pod { id, qos: None });
    }
    let (parent, pod) = stem.rsplit_once('-')?;
    let class = parent.rsplit_once('-').map_or(parent, |(_, class)| class);
    // In the name of a slice, "-" leads to the slice below it, so the uid has "_".
    let id = id_of(pod.strip_prefix("pod")?)?.replace('_', "-");
    let is_below = |class: &str| {
        let above = parent.strip_suffix(class);
        let above = above.and_then(|above| above.strip_suffix('-'));
        above.is_some_and(is_kubepods)
    };
    let qos = match class {
        "burstable" if is_below(class) => "burstable",
        "besteffort" if is_below(class) => "besteffort",
        _ if is_kubepods(parent) => "guaranteed",
        _ => return None,
    };
    Some(Pod { id, qos: Some(qos) })
}

/// The cgroupfs driver's: `kubepods/burstable/podUID`, and `kubepods/podUID` of a guaranteed one.
pub(super) fn of_directory(above: [&str; 2], component: &str) -> Option<Pod> {
    let id = id_of(component.strip_prefix("pod")?)?;
    let qos = match above {
        ["kubepods", "burstable"] => "burstable",
        ["kubepods", "besteffort"] => "besteffort",
        [_, "kubepods"] => "guaranteed",
        _ => return None,
    };
    Some(Pod { id, qos: Some(qos) })
}

/// `kubepods`, or below the kubelet's own root: `kubelet-kubepods`.
fn is_kubepods(slice: &str) -> bool {
    slice == "kubepods" || slice.ends_with("-kubepods")
}

/// A uid is a UUID; of a pod that the kubelet has from a file, a hash.
fn id_of(text: &str) -> Option<String> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (!text.is_empty() && text.bytes().all(is_allowed)).then(|| text.to_owned())
}
