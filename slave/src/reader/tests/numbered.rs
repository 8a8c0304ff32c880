//! What numbering the features of rows asks of those who wait.

use super::*;

#[test]
fn it_holds_up_nobody_who_looks_for_it_and_ends_though_nobody_waits_any_more() {
    // So many that they take longer than to look does.
    let (_folder, path) = file("rows", squares().repeat(50).as_bytes());
    run(async {
        let reader = start(options(), schema(), from_list(splits(&path, &[7000])));
        reader.blocks().await.unwrap();
        assert!(futures::FutureExt::now_or_never(reader.key_map()).is_none());
        assert_eq!(rows(&reader).await.unwrap()[2].1, [2, 3]);
        assert!(matches!(*reader.key_map().await.unwrap(), KeyMap::Sorted(_)));
    });
}
