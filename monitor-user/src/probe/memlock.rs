//! Before Linux 5.11 the memory of maps and programs counts against RLIMIT_MEMLOCK, which is 64 KiB
//! by default: raised while they are made, and put back, for services inherit it.

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, rlim_t, setrlimit};

use crate::os;

/// The limit is raised as long as this value lives.
pub(super) struct Raised {
    /// What it was before: soft and hard.
    before: Option<(rlim_t, rlim_t)>,
    refused: Option<rlim_t>,
}

impl Raised {
    /// Raises the limit where it matters and can be raised.
    pub(super) fn raise() -> Self {
        let counts = os::kernel_version().is_some_and(|version| version < (5, 11));
        if counts {
            Self::on_any_kernel()
        } else {
            Self {
                before: None,
                refused: None,
            }
        }
    }

    fn on_any_kernel() -> Self {
        let resource = Resource::RLIMIT_MEMLOCK;
        let before = getrlimit(resource).ok();
        let before = before.filter(|(soft, _)| *soft != RLIM_INFINITY);
        let Some((_, hard)) = before else {
            return Self {
                before,
                refused: None,
            };
        };
        if setrlimit(resource, RLIM_INFINITY, RLIM_INFINITY).is_ok() {
            return Self {
                before,
                refused: None,
            };
        }
        // It may take as much as the hard limit allows, without a right.
        let _ = setrlimit(resource, hard, hard);
        Self {
            before,
            refused: Some(hard),
        }
    }

    /// What to say of a failure.
    pub(super) fn hint(&self) -> Option<String> {
        let bytes = self.refused?;
        Some(format!(
            "before Linux 5.11 the memory of kernel programs counts against RLIMIT_MEMLOCK, which \
             is {} KiB and may not be raised: give CAP_SYS_RESOURCE, or `ulimit -l unlimited`",
            bytes / 1024
        ))
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        if let Some((soft, hard)) = self.before
            && let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, soft, hard)
        {
            tracing::warn!("cannot put RLIMIT_MEMLOCK back: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_as_before_afterwards() {
        let before = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap();
        let raised = Raised::on_any_kernel();
        let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap();
        match raised.hint() {
            None => assert_eq!(soft, RLIM_INFINITY),
            Some(hint) => {
                assert_eq!((soft, hard), (before.1, before.1));
                assert!(hint.contains("RLIMIT_MEMLOCK"), "{hint}");
            }
        }
        drop(raised);
        assert_eq!(getrlimit(Resource::RLIMIT_MEMLOCK).unwrap(), before);
    }
}
