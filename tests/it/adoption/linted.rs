//! What Supabase's own linter (splinter) says of an app's database: a migration adds nothing to it.
//! The questions are asked anew here; `unused_index`, which says of each young index that nobody
//! has read it yet, is left out.

use std::collections::BTreeSet;

use super::{INSTANCES, QUEUE, migrate};
use crate::app::App;

const FINDINGS: &str = "
    with ours as (
      select class.oid, class.relname, class.relrowsecurity, class.relnamespace
      from pg_class as class
      where class.relkind = 'r'
        and class.relnamespace in (to_regnamespace('public'), to_regnamespace('sluice'))
    )
    select format('0001 unindexed foreign key %s', fk.conname)
    from pg_constraint as fk
    join ours on ours.oid = fk.conrelid
    where fk.contype = 'f'
      and not exists (
        select from pg_index
        where indrelid = fk.conrelid
          and (indkey::smallint[])[0 : cardinality(fk.conkey) - 1] @> fk.conkey
      )
    union all
    select format('0003 auth called for each row: %s %s', policy.tablename, policy.policyname)
    from pg_policies as policy
    where coalesce(policy.qual, '') || coalesce(policy.with_check, '') ~ 'auth\\.(uid|jwt|role)\\(\\)'
      and coalesce(policy.qual, '') || coalesce(policy.with_check, '') !~* 'select auth\\.(uid|jwt|role)\\(\\)'
    union all
    select format('0004 no primary key %s', ours.relname)
    from ours
    where not exists (select from pg_index where indrelid = ours.oid and indisprimary)
    union all
    select format('0006 several policies %s %s %s', ours.relname, role.rolname, command)
    from pg_policy as policy
    join ours on ours.oid = policy.polrelid
    join pg_roles as role on policy.polroles @> array[role.oid] or policy.polroles = array[0::oid]
    cross join lateral unnest(
      case policy.polcmd
        when 'r' then array['select'] when 'a' then array['insert'] when 'w' then array['update'] when 'd' then array['delete']
        else array['select', 'insert', 'update', 'delete']
      end
    ) as command
    where policy.polpermissive
      and role.rolname not like 'pg\\_%'
      and role.rolname not like 'supabase%admin'
      and not role.rolbypassrls
    group by 1
    having count(*) > 1
    union all
    select format('0008 row level security without a policy %s', ours.relname)
    from ours
    where ours.relrowsecurity
      and ours.relnamespace = 'public'::regnamespace
      and not exists (select from pg_policy where polrelid = ours.oid)
    union all
    select format('0009 the same index %s', string_agg(index_row.indexrelid::regclass::text, ' ' order by 1))
    from pg_index as index_row
    join ours on ours.oid = index_row.indrelid
    group by index_row.indrelid, regexp_replace(pg_get_indexdef(index_row.indexrelid), 'INDEX \\S+ ON', '')
    having count(*) > 1
    union all
    select format('0011 a search path that anybody may set %s', function.oid::regprocedure)
    from pg_proc as function
    where function.pronamespace in (to_regnamespace('public'), to_regnamespace('sluice'))
      and not coalesce(function.proconfig::text like '%search_path=%', false)
    union all
    select format('0013 no row level security %s', ours.relname)
    from ours
    where ours.relnamespace = 'public'::regnamespace
      and not ours.relrowsecurity
    union all
    select format('0028 %s may call %s with its owner''s rights', role.rolname, function.oid::regprocedure)
    from pg_proc as function
    join pg_roles as role on role.rolname in ('anon', 'authenticated')
    where function.prosecdef
      and function.pronamespace = 'public'::regnamespace
      and has_function_privilege(role.oid, function.oid, 'execute')";

async fn findings(app: &App) -> BTreeSet<String> {
    app.superuser().await.all::<String>(FINDINGS).await.into_iter().collect()
}

#[tokio::test]
async fn a_migration_adds_nothing_that_the_linter_finds() {
    for app in [App::new().await, App::existing().await] {
        let before = findings(&app).await;

        migrate(&app).await;

        let after = findings(&app).await;
        let new: Vec<_> = after.difference(&before).collect();
        assert!(new.is_empty(), "{new:#?}");
    }
}

/// Else the test above would say nothing.
#[tokio::test]
async fn each_finding_is_found() {
    let app = App::migrated().await;
    let before = findings(&app).await;
    app.owner()
        .await
        .run(&format!(
            "create table public.bad (user_id uuid references public.profiles (id), other int);
             create index one on public.bad (other); create index two on public.bad (other);
             create policy more on {INSTANCES} for select to authenticated using (auth.uid() = user_id);
             create function public.bad() returns int language sql security definer as 'select 1';
             create table public.closed (id int primary key); alter table public.closed enable row level security;
             create policy all_of_them on {QUEUE} for all to sluice_runtime using (true)"
        ))
        .await;

    let after = findings(&app).await;
    let new: BTreeSet<_> = after.difference(&before).map(|finding| finding[..4].to_owned()).collect();

    let known = ["0001", "0003", "0004", "0006", "0008", "0009", "0011", "0013", "0028"];
    assert_eq!(new, known.map(str::to_owned).into());
}
