//! Whose instance is it? A user whom the app lets write their own instance row names another
//! tenant's: nothing is taken over that is not derived from its own user, but by a person's word.

use uuid::Uuid;

use super::{INSTANCES, QUEUE, migrate, sluice};
use crate::{
    app::{App, existing_user},
    program::{printed, said},
};

/// What Sluice holds to be its own: whose, name and token.
const OWN: &str = "select concat_ws(' ', subject, name, secret) from sluice.resource order by name";

/// The project as it was: `eve` may write her row, and has a queue row that waits.
async fn with_instance(name: &str, user: Uuid) -> App {
    let app = App::existing().await;
    let mut owner = app.owner().await;
    owner.run(&format!("delete from {INSTANCES}; delete from {QUEUE}")).await;
    owner
        .run(&format!(
            "create policy mine on {INSTANCES} for insert to authenticated with check ((select auth.uid()) = user_id);
             insert into {QUEUE} (user_id, request_id, status) values ('{user}', gen_random_uuid(), 'pending')"
        ))
        .await;
    app.user(user)
        .await
        .run(&format!(
            "insert into {INSTANCES} (user_id, instance_name, instance_status, instance_token, webhook_url, created_at)
             values ('{user}', '{name}', 'connected', 'forged', 'https://eve.example', '2020-01-01')"
        ))
        .await;
    app
}

#[tokio::test]
async fn a_name_that_is_not_its_users_own_is_neither_adopted_nor_started() {
    let eve = existing_user(4);
    let victim = existing_user(5);
    for name in
        ["other-tenant".to_owned(), format!("user_{victim}"), format!("user_{victim}_v2"), format!("x_user_{eve}")]
    {
        let app = with_instance(&name, eve).await;

        let printed = migrate(&app).await;

        let mut owner = app.owner().await;
        assert_eq!(owner.all::<String>(OWN).await, [""; 0], "{name}");
        assert_eq!(owner.all::<Uuid>("select subject from sluice.held_back").await, [eve], "{name}");
        assert!(printed.contains(&format!("sluice adopt allow '{name}'")), "{printed}");
        // Her own word does not count.
        owner.run(&format!("update {QUEUE} set status = 'pending', retry_count = 0 where user_id = '{eve}'")).await;
        assert_eq!(owner.all::<Uuid>("select subject from sluice.held_back").await, [eve], "{name}");
    }
}

#[tokio::test]
async fn a_row_that_comes_later_is_never_adopted_however_old_it_says_it_is() {
    let app = App::existing().await;
    app.migrate().await;
    let mut owner = app.owner().await;
    let before = owner.all::<String>(OWN).await;
    let eve = existing_user(4);
    owner
        .run(&format!(
            "insert into {INSTANCES} (user_id, instance_name, instance_status, instance_token, webhook_url, created_at)
             values ('{eve}', 'user_{eve}_v2', 'connected', 'forged', 'u', '2020-01-01')"
        ))
        .await;

    app.migrate().await;
    migrate(&app).await;

    assert_eq!(owner.all::<String>(OWN).await, before);
}

#[tokio::test]
async fn names_that_the_old_set_up_made_for_a_user_are_kept_with_their_tokens() {
    let user = existing_user(4);
    for name in [
        format!("user_{user}"),
        format!("user_{user}_1730000000000"),
        format!("user_{user}_v2"),
        format!("user_{user}-new"),
        user.to_string(),
    ] {
        let app = with_instance(&name, user).await;

        migrate(&app).await;

        assert_eq!(app.owner().await.all::<String>(OWN).await, [format!("{user} {name} forged")]);
    }
}

#[tokio::test]
async fn a_person_may_say_that_an_instance_is_its_users_own() {
    let user = existing_user(4);
    let app = with_instance("the-shop", user).await;
    migrate(&app).await;

    let unknown = sluice(&app, &["adopt", "allow", "another-shop"]).await;
    let allowed = sluice(&app, &["adopt", "allow", "the-shop", "--note", "asked them"]).await;
    let again = sluice(&app, &["adopt", "allow", "the-shop"]).await;

    assert_eq!((unknown.status.code(), again.status.code()), (Some(4), Some(4)));
    assert_eq!(allowed.status.code(), Some(0), "{}", said(&allowed));
    assert_eq!(printed(&allowed), "the-shop is its user's own from now on\n");
    let mut owner = app.owner().await;
    assert_eq!(owner.all::<String>(OWN).await, [format!("{user} the-shop forged")]);
    assert_eq!(owner.one::<i64>("select count(*) from sluice.held_back").await, 0);
    let kept: String = owner
        .one("select concat_ws(' ', actor, action, subject, detail ->> 'note') from sluice.audit where actor = 'ana'")
        .await;
    assert_eq!(kept, format!("ana adopt.allow {user} asked them"));
}

#[tokio::test]
async fn nobodys_word_makes_one_instance_two_users() {
    let (eve, victim) = (existing_user(4), existing_user(5));
    let app = with_instance(&format!("user_{victim}"), eve).await;
    migrate(&app).await;
    let mut owner = app.owner().await;
    owner
        .run(&format!(
            "insert into sluice.resource (subject, workflow, name, secret)
             values ('{victim}', 'provision-instance', 'user_{victim}', 'theirs')"
        ))
        .await;

    let refused = sluice(&app, &["adopt", "allow", &format!("user_{victim}")]).await;

    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert_eq!(owner.all::<String>(OWN).await, [format!("{victim} user_{victim} theirs")]);
}
