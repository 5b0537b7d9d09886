-- The public face, part four: who may see and do what. Over the API a user sees their own rows and anon nothing; the
-- services work as sluice_runtime, which owns nothing and is granted what it needs. Policies of the app stay.
-- May be run again at any time: after a table was added by hand, or where a role was missing the first time.

create schema if not exists sluice;

-- Nothing of ours in this schema is for the API. Supabase grants by default in public only; this holds anyway.
do $$
declare
  caller text;
begin
  for caller in
    select rolname
    from pg_catalog.pg_roles
    where rolname in ('anon', 'authenticated')
  loop
    execute format('revoke all on schema sluice from %I', caller);
    execute format('revoke all on all tables in schema sluice from %I', caller);
    execute format('revoke all on all sequences in schema sluice from %I', caller);
    execute format('revoke all on all functions in schema sluice from %I', caller);
  end loop;
end
$$;

-- The API's roles on the two tables. Supabase's defaults grant everything on a new table to anon and authenticated
-- and leave the rest to RLS: anon loses it all; what authenticated may do with an older table stays as the app set it.
do $$
declare
  face record;
begin
  set local lock_timeout = '500ms';
  for face in
    select
      relation,
      exists (
        select
        from pg_catalog.pg_policy as policy
        where policy.polrelid = relation
          and policy.polname not like 'sluice:%'
      ) as has_policies_of_the_app
    from (
      values
        ('public.evolution_instance_creation_queue'::regclass),
        ('public.evolution_instances'::regclass)
    ) as faces (relation)
  loop
    if to_regrole('anon') is not null then
      execute format('revoke all on %s from anon', face.relation);
    end if;
    if to_regrole('authenticated') is not null then
      if not face.has_policies_of_the_app then
        execute format('revoke all on %s from authenticated', face.relation);
      end if;
      execute format('grant select on %s to authenticated', face.relation);
    end if;
    if to_regrole('service_role') is not null then
      execute format('grant all on %s to service_role', face.relation);
    end if;
  end loop;
end
$$;

-- A user's own row, where the app has no policy for reading yet.
do $$
declare
  unread record;
begin
  if to_regrole('authenticated') is null or to_regprocedure('auth.uid()') is null then
    raise notice 'sluice: no policies for users without role authenticated and auth.uid(): run this file again with them';
    return;
  end if;

  set local lock_timeout = '500ms';
  for unread in
    select
      wanted.relation,
      wanted.name
    from (
      values
        ('public.evolution_instance_creation_queue'::regclass, 'sluice: users see their own queue row'),
        ('public.evolution_instances'::regclass, 'sluice: users see their own instance')
    ) as wanted (relation, name)
    where not exists (
      select
      from pg_catalog.pg_policy as policy
      where policy.polrelid = wanted.relation
        and policy.polpermissive
        and policy.polcmd in ('r', '*')
        and policy.polroles && array[0::oid, to_regrole('authenticated')::oid]
    )
  loop
    execute format(
      'create policy %I on %s for select to authenticated using ((select auth.uid()) = user_id)',
      unread.name, unread.relation
    );
  end loop;
end
$$;

-- The services' role. It cannot log in: `create role <name> login password '…' in role sluice_runtime`.
do $$
begin
  if to_regrole('sluice_runtime') is null then
    create role sluice_runtime
      nologin;
  end if;
exception
  when duplicate_object or unique_violation then
    null;
  when insufficient_privilege then
    raise notice 'sluice: role sluice_runtime is missing and % may not create it: do so, then run this file again',
      current_user;
end
$$;

do $$
declare
  policed record;
  readable text;
begin
  -- Asked of the table: to_regrole may still answer that a role is missing which another database's migration has just made.
  if not exists (
    select
    from pg_catalog.pg_roles
    where rolname = 'sluice_runtime'
  ) then
    return;
  end if;

  set local lock_timeout = '500ms';
  grant usage
    on schema sluice
    to sluice_runtime;
  grant select, insert, update, delete
    on all tables in schema sluice
    to sluice_runtime;
  grant usage, select
    on all sequences in schema sluice
    to sluice_runtime;
  grant execute
    on function sluice.actor(), sluice.wake_intake()
    to sluice_runtime;
  alter default privileges in schema sluice
    grant select, insert, update, delete
    on tables
    to sluice_runtime;
  alter default privileges in schema sluice
    grant usage, select
    on sequences
    to sluice_runtime;
  -- What was done stays done.
  revoke update, delete
    on sluice.audit
    from sluice_runtime;

  grant usage
    on schema public
    to sluice_runtime;
  -- No delete: an instance row has the app's conversations hanging on it.
  grant select, insert, update
    on public.evolution_instance_creation_queue, public.evolution_instances
    to sluice_runtime;

  -- Of a profile only what the finder and `why` ask by.
  select string_agg(quote_ident(attname), ', ')
  into readable
  from pg_catalog.pg_attribute
  where attrelid = to_regclass('public.profiles')
    and attname in ('id', 'created_at', 'email')
    and not attisdropped;
  if readable is not null then
    execute format('grant select (%s) on public.profiles to sluice_runtime', readable);
  end if;

  -- The grants above say what it may do, so the policies only open the rows.
  for policed in
    select
      class.oid::regclass as relation,
      wanted.command,
      wanted.predicate
    from (
      values
        (to_regclass('public.evolution_instance_creation_queue'), 'all', 'using (true) with check (true)'),
        (to_regclass('public.evolution_instances'), 'all', 'using (true) with check (true)'),
        (to_regclass('public.profiles'), 'select', 'using (true)')
    ) as wanted (relation, command, predicate)
    join pg_catalog.pg_class as class
      on class.oid = wanted.relation
    where class.relrowsecurity
      and not exists (
        select
        from pg_catalog.pg_policy as policy
        where policy.polrelid = class.oid
          and policy.polname = 'sluice: the services'
      )
  loop
    execute format(
      'create policy "sluice: the services" on %s for %s to sluice_runtime %s',
      policed.relation, policed.command, policed.predicate
    );
  end loop;
end
$$;

-- Supabase Realtime shows the app its rows as they change. A table without a primary key stays out: Postgres would
-- refuse to update it once it is published.
do $$
declare
  unpublished regclass;
begin
  set local lock_timeout = '500ms';
  for unpublished in
    select wanted.relation
    from pg_catalog.pg_publication as publication
    cross join (
      values
        ('public.evolution_instance_creation_queue'::regclass),
        ('public.evolution_instances'::regclass)
    ) as wanted (relation)
    where publication.pubname = 'supabase_realtime'
      and exists (
        select
        from pg_catalog.pg_index
        where indrelid = wanted.relation
          and indisprimary
      )
      and not exists (
        select
        from pg_catalog.pg_publication_tables as published
        where published.pubname = publication.pubname
          and format('%I.%I', published.schemaname, published.tablename)::regclass = wanted.relation
      )
  loop
    execute format('alter publication supabase_realtime add table %s', unpublished);
  end loop;
exception
  when insufficient_privilege then
    raise notice 'sluice: the app gets no live updates of its rows, publication supabase_realtime was not changed: %',
      sqlerrm;
end
$$;
