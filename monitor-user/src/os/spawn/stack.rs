//! The memory that a child begins on. Knows nothing of what the child does there.

use std::io;
use std::num::NonZero;
use std::ptr::NonNull;

use nix::libc::c_void;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use super::child::Shared;

/// Below the stack, never accessible: an overflow faults. A multiple of every page size.
const GUARD: usize = 64 * 1024;
/// Stack and shared words. The child needs far less; what is not touched costs nothing.
const STACK: usize = 128 * 1024;
/// Room for the shared words at the top; keeps the stack aligned.
const SHARED: usize = 128;

const _: () = assert!(size_of::<Shared>() <= SHARED);
const _: () = assert!(SHARED.is_multiple_of(align_of::<Shared>()) && SHARED.is_multiple_of(16));

/// `[guard | stack … ◀ | shared words]`, used by one child at a time.
#[derive(Debug)]
pub(super) struct Stack {
    base: NonNull<c_void>,
}

// SAFETY: it owns its mapping, and gives out only shared references to atomics in it.
unsafe impl Send for Stack {}

impl Stack {
    pub(super) fn new() -> io::Result<Self> {
        let length = NonZero::new(GUARD + STACK).ok_or(io::ErrorKind::InvalidInput)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_STACK | MapFlags::MAP_NORESERVE;
        // SAFETY: a new mapping at a place of the kernel's choice.
        let base = unsafe { mmap_anonymous(None, length, access, flags) }?;
        let stack = Self { base };
        // SAFETY: the lowest part of our own mapping, which nothing uses yet.
        unsafe { mprotect(stack.base, GUARD, ProtFlags::PROT_NONE) }?;
        // SAFETY: in bounds of the mapping, aligned for `Shared` (the mapping is to a page, the
        // offset by the assertions above), and nobody refers to it yet.
        unsafe { stack.shared_pointer().write(Shared::default()) };
        Ok(stack)
    }

    /// Lowest address and length of what the child may use as its stack.
    pub(super) fn extent(&self) -> (u64, u64) {
        let lowest = self.base.as_ptr() as usize + GUARD;
        (lowest as u64, (STACK - SHARED) as u64)
    }

    /// The words shared with the child.
    pub(super) fn shared(&self) -> &Shared {
        // SAFETY: initialised in `new`, mapped as long as `self` lives, and all atomics.
        unsafe { self.shared_pointer().as_ref() }
    }

    fn shared_pointer(&self) -> NonNull<Shared> {
        // SAFETY: within the mapping of GUARD + STACK bytes.
        unsafe { self.base.byte_add(GUARD + STACK - SHARED) }.cast()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: our own mapping; the references that `shared` gave out have ended, and so has
        // the last child (the spawner forgets a stack whose child has not).
        let _ = unsafe { munmap(self.base, GUARD + STACK) };
    }
}
