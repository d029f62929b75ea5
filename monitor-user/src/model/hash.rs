//! FNV-1a with 64 bits: the same number in every version, for few and short texts that nobody forges.
//! <http://www.isthe.com/chongo/tech/comp/fnv/>

/// Of nothing.
pub(super) const BEGIN: u64 = 0xcbf2_9ce4_8422_2325;

/// Of these bytes.
pub(crate) fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u64 {
    fnv1a_on(BEGIN, bytes)
}

/// Of these bytes behind those that `hash` is of.
pub(super) fn fnv1a_on(hash: u64, bytes: impl IntoIterator<Item = u8>) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.into_iter().fold(hash, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those of the reference's own list.
    #[test]
    fn it_is_the_published_hash() {
        assert_eq!(fnv1a([]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(*b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(*b"foobar"), 0x8594_4171_f739_67e8);
        assert_eq!(fnv1a_on(fnv1a(*b"foo"), *b"bar"), fnv1a(*b"foobar"));
    }
}
