-- The public face, part four: who may see and do what. Over the API a user sees their own rows and
-- anon nothing; the services work as sluice_runtime, which owns nothing and is granted what it
-- needs. Policies of the app stay. Defined here, brought about by `sluice.adapt()` (the next file).
-- May be run again at any time.

create schema if not exists sluice;

-- For the owner only: closes a table of ours to the API, but for a user's own rows. Once for each
-- table: what the owner grants later is the owner's decision. Supabase's defaults grant everything
-- on a new table to anon and authenticated and leave the rest to RLS: anon loses it all; what
-- authenticated may do with an older table stays as the app set it.
create or replace function sluice.close_to_api(relation regclass)
returns void
language plpgsql
set search_path = ''
as $$
declare
  has_policies_of_the_app constant boolean := exists (
    select
    from pg_catalog.pg_policy as policy
    where policy.polrelid = relation
      and policy.polname not like 'sluice:%'
  );
begin
  execute format('alter table %s enable row level security', relation);
  if to_regrole('anon') is not null then
    execute format('revoke all on %s from anon', relation);
  end if;
  if to_regrole('service_role') is not null then
    execute format('grant all on %s to service_role', relation);
  end if;
  if to_regrole('authenticated') is not null then
    if not has_policies_of_the_app then
      execute format('revoke all on %s from authenticated', relation);
    end if;
    execute format('grant select on %s to authenticated', relation);

    -- A user's own row, where the app has no policy for reading yet.
    if sluice.auth_uid() is not null and not exists (
      select
      from pg_catalog.pg_policy as policy
      where policy.polrelid = relation
        and policy.polpermissive
        and policy.polcmd in ('r', '*')
        and policy.polroles && array[0::oid, to_regrole('authenticated')::oid]
    ) then
      execute format(
        'create policy "sluice: users see their own row" on %s for select to authenticated using ((select auth.uid()) = user_id)',
        relation
      );
    end if;
  end if;

  insert into sluice.setting as setting (name, value, note)
  values (
    'closed_to_api ' || relation,
    sluice.api_roles(relation),
    'The table, and the roles of the API, when Sluice last closed it to them.'
  )
  on conflict (name) do update
    set value = excluded.value;
end
$$;

comment on function sluice.close_to_api(regclass) is 'For the owner only: closes a table of ours to the API.';

-- The table and who is there to be kept out of it: where one of them is another, the table is
-- closed again.
create or replace function sluice.api_roles(relation regclass)
returns text
language sql
stable
set search_path = ''
as $$
  select concat_ws(
    ' ',
    relation::oid,
    to_regrole('anon')::oid,
    to_regrole('authenticated')::oid,
    to_regrole('service_role')::oid,
    sluice.auth_uid()
  )
$$;

-- What sluice_runtime may do with each table of the schema. What decides about the owner's wishes,
-- and the migrations' own book, it may only read, and each view: a view that is written writes its
-- table with the owner's rights. What was done stays done.
create or replace function sluice.runtime_rights()
returns table (relation regclass, allowed text[], refused text[])
language sql
stable
set search_path = ''
as $$
  select
    class.oid::regclass,
    rights.allowed,
    array(
      select unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'trigger', 'references'])
      except
      select unnest(rights.allowed)
    )
  from pg_catalog.pg_class as class
  cross join lateral (
    select case
      when class.relkind = 'v' or class.relname in ('setting', '_sqlx_migrations', 'adoption', 'announcement') then array['select']
      when class.relname = 'audit' then array['select', 'insert']
      else array['select', 'insert', 'update', 'delete']
    end as allowed
  ) as rights
  where class.relnamespace = to_regnamespace('sluice')
    and class.relkind in ('r', 'p', 'v')
$$;

-- The functions that the services may call: all but triggers, and those whose comment says that
-- they are the owner's.
create or replace function sluice.runtime_functions()
returns setof regprocedure
language sql
stable
set search_path = ''
as $$
  select function.oid::regprocedure
  from pg_catalog.pg_proc as function
  where function.pronamespace = to_regnamespace('sluice')
    and function.prorettype <> 'trigger'::regtype
    and coalesce(obj_description(function.oid, 'pg_proc'), '') not like 'For the owner only%'
$$;

-- For the owner only: sluice_runtime's rights in our own schema, exactly.
create or replace function sluice.let_runtime_in()
returns void
language plpgsql
set search_path = ''
as $$
declare
  known record;
begin
  grant usage on schema sluice to sluice_runtime;
  alter default privileges in schema sluice
    grant select, insert, update, delete
    on tables
    to sluice_runtime;
  alter default privileges in schema sluice
    grant usage, select
    on sequences
    to sluice_runtime;
  grant usage, select on all sequences in schema sluice to sluice_runtime;
  for known in
    select *
    from sluice.runtime_rights()
  loop
    execute format('revoke all on %s from sluice_runtime', known.relation);
    execute format('grant %s on %s to sluice_runtime', array_to_string(known.allowed, ', '), known.relation);
  end loop;

  for known in
    select
      function.oid::regprocedure as name,
      function.oid::regprocedure in (select sluice.runtime_functions()) as is_for_runtime
    from pg_catalog.pg_proc as function
    where function.pronamespace = to_regnamespace('sluice')
  loop
    execute format('revoke all on function %s from public', known.name);
    if known.is_for_runtime then
      execute format('grant execute on function %s to sluice_runtime', known.name);
    else
      execute format('revoke all on function %s from sluice_runtime', known.name);
    end if;
  end loop;
end
$$;

comment on function sluice.let_runtime_in() is 'For the owner only: gives sluice_runtime its rights in schema sluice.';

-- For the owner only: nothing of ours in schema sluice is for the API. Supabase grants by default
-- in public only; this holds anyway.
create or replace function sluice.keep_api_out()
returns void
language plpgsql
set search_path = ''
as $$
declare
  caller text;
begin
  for caller in
    select rolname
    from pg_catalog.pg_roles
    where rolname in ('anon', 'authenticated', 'service_role')
  loop
    execute format('revoke all on schema sluice from %I', caller);
    execute format('revoke all on all tables in schema sluice from %I', caller);
    execute format('revoke all on all sequences in schema sluice from %I', caller);
    execute format('revoke all on all functions in schema sluice from %I', caller);
  end loop;
end
$$;

comment on function sluice.keep_api_out() is 'For the owner only: takes schema sluice from the roles of the API.';

-- Who may see and do what, and whether it is so.
create or replace function sluice.wanted_access()
returns table (rank integer, item text, present boolean, change text, without text, mend text)
language plpgsql
stable
set search_path = ''
as $$
declare
  queue constant regclass := to_regclass('public.evolution_instance_creation_queue');
  instances constant regclass := to_regclass('public.evolution_instances');
  profiles constant regclass := case
    when sluice.profiles_key() is not null then to_regclass('public.profiles')
  end;
  -- Asked of the table: to_regrole may still answer that a role is missing which another database's
  -- migration has just made.
  runtime constant oid := (select oid from pg_catalog.pg_roles where rolname = 'sluice_runtime');
begin
  -- First of all: it may wait for another database of the cluster that makes the role at this
  -- moment.
  return query
  select
    1,
    'role sluice_runtime',
    runtime is not null,
    $change$
      do $role$
      begin
        create role sluice_runtime nologin;
      exception
        when duplicate_object or unique_violation then
          null;
      end
      $role$
    $change$,
    'the services have no rights',
    'as a role that may create roles: create role sluice_runtime nologin';

  return query
  select
    40,
    'schema sluice closed to the API',
    not exists (
      select
      from pg_catalog.pg_roles as caller
      where caller.rolname in ('anon', 'authenticated', 'service_role')
        and not caller.rolsuper
        and has_schema_privilege(caller.oid, 'sluice', 'usage, create')
    ),
    'select sluice.keep_api_out()',
    'the ledger is open to the API',
    'as its owner: revoke all on schema sluice from anon, authenticated, service_role';

  return query
  select
    41,
    format('rights of the API on %s', face.relation),
    exists (
      select
      from sluice.setting
      where name = 'closed_to_api ' || face.relation
        and value = sluice.api_roles(face.relation)
    ),
    format('select sluice.close_to_api(%L)', face.relation),
    'anybody whom the API lets in may read it',
    'run `sluice migrate` as the table''s owner'
  from (values (queue), (instances)) as face (relation)
  where face.relation is not null;

  return query
  select
    42,
    format('row level security on %s', face.relation),
    class.relrowsecurity,
    null::text,
    'whoever is granted the table sees the rows of all users',
    format('alter table %s enable row level security', face.relation)
  from (values (queue), (instances)) as face (relation)
  join pg_catalog.pg_class as class
    on class.oid = face.relation
  where exists (select from sluice.setting where name = 'closed_to_api ' || face.relation);

  if runtime is null then
    return;
  end if;

  return query
  select
    43,
    'rights of sluice_runtime in schema sluice',
    has_schema_privilege(runtime, 'sluice', 'usage')
      and exists (
        select
        from pg_catalog.pg_default_acl
        where defaclnamespace = to_regnamespace('sluice')
          and defaclacl::text like '%sluice_runtime%'
      )
      and not exists (
        select
        from sluice.runtime_rights() as rights
        where exists (
            select
            from unnest(rights.allowed) as allowed
            where not has_table_privilege(runtime, rights.relation, allowed)
          )
          or exists (
            select
            from unnest(rights.refused) as refused
            where has_table_privilege(runtime, rights.relation, refused)
          )
      )
      and not exists (
        select
        from sluice.runtime_functions() as function
        where not has_function_privilege(runtime, function::oid, 'execute')
      )
      and not exists (
        select
        from pg_catalog.pg_proc as function
        where function.pronamespace = to_regnamespace('sluice')
          and has_function_privilege('public', function.oid, 'execute')
      ),
    'select sluice.let_runtime_in()',
    'the services cannot work',
    'run `sluice migrate` as the owner of schema sluice';

  -- No delete: an instance row has the app's conversations hanging on it. Of a profile only what
  -- `runs --subject` asks by.
  return query
  select
    44,
    format('rights of sluice_runtime on %s', face.relation),
    has_schema_privilege(runtime, 'public', 'usage')
      and has_table_privilege(runtime, face.relation, 'select')
      and has_table_privilege(runtime, face.relation, 'insert')
      and has_table_privilege(runtime, face.relation, 'update'),
    format(
      'grant usage on schema public to sluice_runtime; grant select, insert, update on %s to sluice_runtime',
      face.relation
    ),
    'the services cannot work',
    format('as its owner: grant select, insert, update on %s to sluice_runtime', face.relation)
  from (values (queue), (instances)) as face (relation)
  where face.relation is not null;
  return query
  select
    45,
    'rights of sluice_runtime on public.profiles',
    bool_and(has_column_privilege(runtime, profiles, attnum, 'select')),
    format('grant select (%s) on public.profiles to sluice_runtime', string_agg(quote_ident(attname), ', ')),
    '`sluice runs --subject` finds nobody by e-mail',
    format(
      'as its owner: grant select (%s) on public.profiles to sluice_runtime',
      string_agg(quote_ident(attname), ', ')
    )
  from pg_catalog.pg_attribute
  where attrelid = profiles
    and (attname in ('created_at', 'email') or attname = sluice.profiles_key())
    and not attisdropped
  having count(*) > 0;

  -- The grants say what the services may do, so the policies only open the rows; and to nobody
  -- else.
  return query
  select
    46,
    format('policy "sluice: the services" on %s', face.relation),
    exists (
      select
      from pg_catalog.pg_policy as policy
      where policy.polrelid = face.relation
        and policy.polname = 'sluice: the services'
        and policy.polroles = array[runtime]
    ),
    format('drop policy if exists "sluice: the services" on %s; ', face.relation)
      || format('create policy "sluice: the services" on %s for %s to sluice_runtime %s', face.relation, face.command, face.predicate),
    case when face.relation = profiles then '`sluice runs --subject` finds nobody by e-mail' else 'the services see no rows' end,
    'run `sluice migrate` as the table''s owner'
  from (
    values
      (queue, 'all', 'using (true) with check (true)'),
      (instances, 'all', 'using (true) with check (true)'),
      (profiles, 'select', 'using (true)')
  ) as face (relation, command, predicate)
  join pg_catalog.pg_class as class
    on class.oid = face.relation
  where class.relrowsecurity;

  -- Supabase Realtime shows the app its rows as they change. A table without a primary key stays
  -- out: Postgres would refuse to update it once it is published.
  return query
  select
    47,
    format('%s in publication supabase_realtime', face.relation),
    publication.puballtables or exists (
      select
      from pg_catalog.pg_publication_rel
      where prpubid = publication.oid
        and prrelid = face.relation
    ) or exists (
      select
      from pg_catalog.pg_publication_tables as published
      where published.pubname = publication.pubname
        -- Compared as text: to make a table of every name would need rights on every schema.
        and format('%I.%I', published.schemaname, published.tablename) = face.relation::text
    ),
    format('alter publication supabase_realtime add table %s', face.relation),
    'the app gets no live updates of these rows',
    format('as its owner: alter publication supabase_realtime add table %s', face.relation)
  from pg_catalog.pg_publication as publication
  cross join (values (queue), (instances)) as face (relation)
  where publication.pubname = 'supabase_realtime'
    and exists (
      select
      from pg_catalog.pg_index
      where indrelid = face.relation
        and indisprimary
    );
end
$$;
